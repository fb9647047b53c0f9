/**
 * The HTTP listener. Owns: its time limits, binding, and closing so that every request that was accepted gets its answer.
 */
import { createServer } from "node:http";
import type { IncomingMessage, RequestListener, Server, ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export interface Listener {
  readonly port: number;
  /** For people: a name that works on this machine. */
  readonly url: string;
  /** Accepts nothing more; resolves when every connection is closed, each behind the response it is working on. */
  close(): Promise<void>;
}

/** A client has this long for its headers, and for the whole request: a slow one must not hold a socket for ever. */
const headersTimeoutMs = 15_000;
const requestTimeoutMs = 30_000;
/** Longer than the 60 s of common load balancers, which else send a request down a connection that is just closing. */
const keepAliveTimeoutMs = 65_000;
/** While closing: a connection that fell idle since the last look is closed then. */
const lookEveryMs = 50;

/** Which requests take as long as they take, if they go on. */
export interface UploadLimits {
  readonly isUpload: (req: IncomingMessage) => boolean;
  /** Longer than this without a byte in either direction, an upload is over. */
  readonly uploadIdleMs: number;
}

/** Binds, or rejects with what is wrong in words. */
export async function listen(
  handler: RequestListener,
  address: { readonly port: number; readonly host: string | undefined },
  uploads?: UploadLimits,
): Promise<Listener> {
  const server = createServer(handler);
  const running = new Set<ServerResponse>();
  let closing = false;
  server.prependListener("request", (req, res) => {
    if (uploads?.isUpload(req) === true) limitIdleness(req, res, uploads.uploadIdleMs);
    else limitTime(req, res);
    // The client learns from the header of its answer that the connection ends, and sends nothing more down it.
    if (closing) res.shouldKeepAlive = false;
    running.add(res);
    res.once("close", () => running.delete(res));
  });
  server.headersTimeout = headersTimeoutMs;
  // Node's own limit knows no exception; this one does.
  server.requestTimeout = 0;
  server.keepAliveTimeout = keepAliveTimeoutMs;
  await bind(server, address);
  const { port } = server.address() as AddressInfo;
  const close = async (): Promise<void> => {
    closing = true;
    for (const res of running) res.shouldKeepAlive = false;
    await closeServer(server);
  };
  return { port, url: localUrl(address.host, port), close };
}

/** Ends a request whose body has not come in time, as Node's own limit does. */
function limitTime(req: IncomingMessage, res: ServerResponse): void {
  if (req.complete) return;
  const timer = setTimeout(() => {
    if (!req.complete) endLate(req, res);
  }, requestTimeoutMs);
  timer.unref();
  req.once("close", () => clearTimeout(timer));
}

/** Node tells a request first that its socket is idle, and ends the connection where nobody listens. */
function limitIdleness(req: IncomingMessage, res: ServerResponse, idleMs: number): void {
  req.socket.setTimeout(idleMs);
  req.once("timeout", () => endLate(req, res));
}

/** The handler learns that its client has gone. */
function endLate(req: IncomingMessage, res: ServerResponse): void {
  if (!res.headersSent)
    req.socket.write("HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n");
  req.socket.destroy();
}

/** For people: a name that works on this machine. */
export function localUrl(host: string | undefined, port: number): string {
  const isAnywhere = host === undefined || host === "0.0.0.0" || host === "::";
  const name = isAnywhere ? "localhost" : host.includes(":") ? `[${host}]` : host;
  return `http://${name}:${port}`;
}

function bind(
  server: Server,
  { port, host }: { readonly port: number; readonly host: string | undefined },
): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => {
      const taken = `Port ${port} is taken. Set PORT to another one, or to 0 for any that is free.`;
      reject(error.code === "EADDRINUSE" ? new Error(taken, { cause: error }) : error);
    });
    server.listen({ port, ...(host === undefined ? {} : { host }) }, resolve);
  });
}

async function closeServer(server: Server): Promise<void> {
  const look = setInterval(() => server.closeIdleConnections(), lookEveryMs);
  try {
    await new Promise<void>((resolve) => {
      server.close(() => resolve());
    });
  } finally {
    clearInterval(look);
  }
}
