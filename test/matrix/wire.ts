/** HTTP/1.x over a raw socket: what is compared is what was on the wire. */
import { once } from "node:events";
import { connect, type Socket } from "node:net";

export type HeaderLine = readonly [name: string, value: string];

/** One response, as it was written. */
export interface Answer {
  readonly statusLine: string;
  readonly status: number;
  /** In their own case and order, with repetitions. */
  readonly headers: readonly HeaderLine[];
  /** Without the framing. */
  readonly body: Buffer;
  readonly framing: "length" | "chunked" | "close";
  readonly trailers: readonly HeaderLine[];
  /** Status lines of the 1xx responses in front. */
  readonly interim: readonly string[];
  /** False where the connection ended before the response did. */
  readonly isComplete: boolean;
}

export interface RequestParts {
  readonly version?: "1.0" | "1.1";
  readonly headers?: Readonly<Record<string, string>>;
}

export const payload = '{"amount":2000,"currency":"eur"}';

/** The bytes of a keyed POST. */
export function requestBytes(
  path: string,
  key: string,
  { version = "1.1", headers = {} }: RequestParts = {},
  connection = "close",
): string {
  const lines = {
    Host: "test",
    Connection: connection,
    "Content-Type": "application/json",
    "Content-Length": String(payload.length),
    "Idempotency-Key": key,
    ...headers,
  };
  const head = Object.entries(lines).map(([name, value]) => `${name}: ${value}`);
  return [`POST ${path} HTTP/${version}`, ...head, "", payload].join("\r\n");
}

/** Writes and gives the socket back, for clients that do not wait for the end. */
export function openSocket(port: number, bytes: string): Socket {
  const socket = connect(port, "127.0.0.1");
  // A reset is one way to end a response; what had come before it counts.
  socket.on("error", () => undefined);
  socket.write(bytes);
  return socket;
}

/** Every byte that comes until the server ends the connection. */
export async function exchange(port: number, bytes: string): Promise<Buffer> {
  const socket = openSocket(port, bytes);
  const chunks: Buffer[] = [];
  socket.on("data", (chunk: Buffer) => chunks.push(chunk));
  await once(socket, "close");
  return Buffer.concat(chunks);
}

/** All responses on a connection that the server has ended. */
export function parseAnswers(bytes: Buffer): Answer[] {
  const answers: Answer[] = [];
  let interim: string[] = [];
  for (let at = 0; at < bytes.length;) {
    const headEnd = bytes.indexOf("\r\n\r\n", at);
    if (headEnd === -1)
      throw new Error(`Bytes behind a response, at ${at}: ${bytes.toString("latin1", 0, 600)}`);
    const [statusLine = "", ...lines] = bytes.toString("latin1", at, headEnd).split("\r\n");
    const status = Number(statusLine.split(" ")[1]);
    at = headEnd + 4;
    if (status < 200) {
      interim.push(statusLine);
      continue;
    }
    const headers = lines.map(toLine);
    const content = contentOf(bytes, at, status, headers);
    at = content.end;
    const { end: _end, ...rest } = content;
    answers.push({ statusLine, status, headers, interim, ...rest });
    interim = [];
  }
  return answers;
}

type Content = Pick<Answer, "body" | "framing" | "trailers" | "isComplete"> & {
  readonly end: number;
};

function contentOf(
  bytes: Buffer,
  start: number,
  status: number,
  headers: readonly HeaderLine[],
): Content {
  const length = status === 204 || status === 304 ? "0" : valueOf(headers, "content-length");
  if (valueOf(headers, "transfer-encoding") === "chunked") return chunksOf(bytes, start);
  if (length === undefined)
    return {
      body: bytes.subarray(start),
      framing: "close",
      trailers: [],
      isComplete: true,
      end: bytes.length,
    };
  const end = Math.min(start + Number(length), bytes.length);
  return {
    body: bytes.subarray(start, end),
    framing: "length",
    trailers: [],
    isComplete: end === start + Number(length),
    end,
  };
}

function chunksOf(bytes: Buffer, start: number): Content {
  const parts: Buffer[] = [];
  const cut = (): Content => ({
    body: Buffer.concat(parts),
    framing: "chunked",
    trailers: [],
    isComplete: false,
    end: bytes.length,
  });
  for (let at = start; ;) {
    const lineEnd = bytes.indexOf("\r\n", at);
    if (lineEnd === -1) return cut();
    const size = Number.parseInt(bytes.toString("latin1", at, lineEnd), 16);
    at = lineEnd + 2;
    if (size === 0) {
      const end = bytes.indexOf("\r\n\r\n", lineEnd);
      if (end === -1) return cut();
      const text = bytes.toString("latin1", at, end);
      const trailers = text.length > 2 ? text.split("\r\n").filter(Boolean).map(toLine) : [];
      return { ...cut(), trailers, isComplete: true, end: end + 4 };
    }
    parts.push(bytes.subarray(at, at + size));
    at += size + 2;
    if (at > bytes.length) return cut();
  }
}

function toLine(text: string): HeaderLine {
  const colon = text.indexOf(": ");
  return [text.slice(0, colon), text.slice(colon + 2)];
}

/** The value of a header's first line. */
export function valueOf(headers: readonly HeaderLine[], lowerName: string): string | undefined {
  return headers.find(([name]) => name.toLowerCase() === lowerName)?.[1];
}
