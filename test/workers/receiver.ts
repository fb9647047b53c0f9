/** A real HTTP endpoint that webhooks are sent to, and what it saw. */
import { createServer, type IncomingHttpHeaders } from "node:http";
import type { AddressInfo } from "node:net";

export type Received = {
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
  readonly id: string;
};

export type Answer = number | { status: number; headers?: Record<string, string>; body?: string };

export type Receiver = {
  readonly url: string;
  readonly received: Received[];
  /** How many requests are being answered now. */
  readonly open: number;
  /** Ids that were delivered while another delivery of the same id was still being answered. */
  readonly overlapped: string[];
  /** What it answers from now on; 200 at first. */
  answer: (request: Received) => Answer | Promise<Answer>;
  close(): Promise<void>;
};

export async function startReceiver(): Promise<Receiver> {
  const received: Received[] = [];
  const overlapped: string[] = [];
  const open: string[] = [];
  const server = createServer((req, res) => {
    const chunks: Buffer[] = [];
    req.on("data", (chunk: Buffer) => chunks.push(chunk));
    req.on("end", () => {
      const id = String(req.headers["webhook-id"]);
      const body = Buffer.concat(chunks).toString();
      const request = { path: req.url ?? "", headers: req.headers, body, id };
      received.push(request);
      if (open.includes(id)) overlapped.push(id);
      open.push(id);
      res.on("close", () => open.splice(open.indexOf(id), 1));
      const respond = async (): Promise<void> => {
        const answer = await receiver.answer(request);
        const {
          status,
          headers = {},
          body: text = "",
        } = typeof answer === "number" ? { status: answer } : answer;
        res.writeHead(status, headers).end(text);
      };
      void respond();
    });
  });
  await new Promise<void>((done) => {
    server.listen(0, "127.0.0.1", done);
  });
  const receiver: Receiver = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook`,
    received,
    get open() {
      return open.length;
    },
    overlapped,
    answer: () => 200,
    close: async () => {
      server.closeAllConnections();
      await new Promise<void>((done) => {
        server.close(() => done());
      });
    },
  };
  return receiver;
}
