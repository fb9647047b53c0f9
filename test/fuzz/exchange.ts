/**
 * Sends requests and keeps their answers byte for byte. Owns: two ways to the server. `ask` is Node's own client, for what
 * is well formed; `sendRaw` is a bare socket, for everything that a client library would mend or refuse.
 */
import { type Agent, request } from "node:http";
import { connect } from "node:net";

export type Answer = {
  readonly status: number;
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly bytes: Buffer;
};

/** Nothing here takes a second; the server's own time limits for clients begin at 15. */
export const watchdogMs = 20_000;

export type Ask = {
  readonly method: string;
  readonly path: string;
  /** Name and value, each line as it is sent. */
  readonly headers: readonly (readonly [string, string])[];
  readonly body: Buffer | undefined;
};

/** One well-formed request. Rejects where no whole answer comes within the watchdog's time. */
export function ask(
  port: number,
  agent: Agent,
  { method, path, headers, body }: Ask,
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const length = body === undefined ? [] : [["Content-Length", String(body.byteLength)] as const];
    const outgoing = request({
      host: "127.0.0.1",
      port,
      method,
      path,
      agent,
      headers: [["Host", "fuzz"] as const, ...headers, ...length].flat(),
      timeout: watchdogMs,
    });
    outgoing.on("timeout", () => outgoing.destroy(new Error(`no answer in ${watchdogMs} ms`)));
    outgoing.on("error", reject);
    outgoing.on("response", (incoming) => {
      const chunks: Buffer[] = [];
      incoming.on("data", (chunk: Buffer) => chunks.push(chunk));
      incoming.on("error", reject);
      incoming.on("end", () => {
        const { statusCode: status = 0, headers: received } = incoming;
        resolve({ status, headers: received, bytes: Buffer.concat(chunks) });
      });
    });
    outgoing.end(body);
  });
}

export type Raw = {
  /** Written one after the other, each when the one before has left. */
  readonly pieces: readonly Buffer[];
  /** After so many answers the socket is closed; the server may close it earlier. */
  readonly answers: number;
  /** Which of the answers come without a body, since HEAD asked for them. */
  readonly bodiless?: boolean;
  /** `wait` for the answers; `end`: say that nothing more comes; `leave`: reset the connection at once. */
  readonly after: "wait" | "end" | "leave";
};

export type RawOutcome = {
  readonly answers: readonly Answer[];
  /** True where neither the answers nor the end of the connection came in time. */
  readonly hung: boolean;
};

/** Bytes on a connection of their own. Never rejects: that a server closes on nonsense is an answer too. */
export function sendRaw(port: number, raw: Raw): Promise<RawOutcome> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: "127.0.0.1", noDelay: true });
    let received = Buffer.alloc(0);
    let hung = false;
    socket.setTimeout(watchdogMs, () => {
      hung = true;
      socket.destroy();
    });
    socket.on("error", () => {
      // A reset is how a server ends what it will not read.
    });
    socket.on("data", (chunk) => {
      received = Buffer.concat([received, chunk]);
      if (raw.after === "wait" && readAnswers(received, raw.bodiless).length >= raw.answers)
        socket.destroy();
    });
    socket.on("end", () => socket.end());
    socket.on("close", () => resolve({ answers: readAnswers(received, raw.bodiless), hung }));
    const write = (index: number): void => {
      const piece = raw.pieces[index];
      if (socket.destroyed) return;
      if (piece !== undefined) socket.write(piece, () => write(index + 1));
      else if (raw.after === "end") socket.end();
      else if (raw.after === "leave") socket.resetAndDestroy();
    };
    socket.on("connect", () => write(0));
  });
}

/** The whole final answers in the bytes that came (RFC 9112, section 6.3); the interim 1xx ones are passed over. */
export function readAnswers(received: Buffer, bodiless = false): Answer[] {
  const answers: Answer[] = [];
  let at = 0;
  for (;;) {
    const headEnd = received.indexOf("\r\n\r\n", at);
    if (headEnd < 0) return answers;
    const [statusLine = "", ...lines] = received.toString("latin1", at, headEnd).split("\r\n");
    const status = Number(/^HTTP\/1\.[01] (\d{3})/.exec(statusLine)?.[1] ?? 0);
    const headers: Record<string, string> = {};
    for (const line of lines) {
      const colon = line.indexOf(":");
      headers[line.slice(0, colon).toLowerCase()] = line.slice(colon + 1).trim();
    }
    at = headEnd + 4;
    if (status >= 100 && status < 200) continue;
    const none = bodiless || status === 204 || status === 304;
    const body = none ? { bytes: Buffer.alloc(0), end: at } : readBody(received, at, headers);
    if (body === undefined) return answers;
    at = body.end;
    answers.push({ status, headers, bytes: body.bytes });
  }
}

type Body = { bytes: Buffer; end: number };

function readBody(
  received: Buffer,
  start: number,
  headers: Readonly<Record<string, string>>,
): Body | undefined {
  if (headers["transfer-encoding"] === "chunked") return readChunks(received, start);
  // Without a length the body lasts until the connection ends, as it does behind the answers that Node itself writes.
  const end = start + Number(headers["content-length"] ?? received.length - start);
  return end > received.length ? undefined : { bytes: received.subarray(start, end), end };
}

function readChunks(received: Buffer, start: number): Body | undefined {
  const parts: Buffer[] = [];
  let at = start;
  for (;;) {
    const lineEnd = received.indexOf("\r\n", at);
    if (lineEnd < 0) return undefined;
    const size = Number.parseInt(received.toString("latin1", at, lineEnd), 16);
    const data = lineEnd + 2;
    if (data + size + 2 > received.length) return undefined;
    if (size === 0) return { bytes: Buffer.concat(parts), end: data + 2 };
    parts.push(received.subarray(data, data + size));
    at = data + size + 2;
  }
}
