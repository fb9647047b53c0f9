/** Requests with any body over real sockets, and apps that say what became of them. */
import { once } from "node:events";
import { request } from "node:http";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";

import express5 from "express";
import type { ErrorRequestHandler, Express, RequestHandler } from "express";
import express4 from "express4";

import { isIdempotencyError } from "../../src/index.js";

export const versions = [
  ["Express 5", express5],
  ["Express 4", express4],
] as const;

export type Sent = {
  readonly headers: Readonly<Record<string, string | string[]>>;
  readonly body: Uint8Array | string;
};

export type Got = {
  readonly status: number;
  readonly replayed: boolean;
  readonly headers: NodeJS.Dict<string | string[]>;
  readonly body: {
    readonly run?: number;
    readonly code?: string;
    readonly differs?: readonly string[];
    readonly detail?: string;
  };
};

/** An app on a port, and how often its handler has run. */
export type Running = {
  readonly runs: () => number;
  readonly post: (key: string | undefined, sent: Sent, path?: string) => Promise<Got>;
  readonly close: () => Promise<void>;
};

/** Serves `POST *` by these handlers and, behind them, one that counts. */
export async function serve(
  express: typeof express5,
  handlers: readonly (RequestHandler | ErrorRequestHandler)[],
  last?: RequestHandler,
): Promise<Running> {
  let runs = 0;
  const app: Express = express();
  for (const handler of handlers) app.use(handler as RequestHandler);
  app.use(async (req, res, next) => {
    runs += 1;
    try {
      if (last === undefined) res.status(201).json({ run: runs });
      else await last(req, res, next);
    } catch (error) {
      // Express 4 does not wait for promises.
      next(error);
    }
  });
  app.use(((error, _req, res, _next) => {
    const { status = 500, message } = error as { status?: number; message: string };
    const code = isIdempotencyError(error) ? error.code : undefined;
    res.status(status).json({ code, detail: message });
  }) satisfies ErrorRequestHandler);
  const server = app.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    runs: () => runs,
    post: (key, sent, path = "/") => post(server, key, sent, path),
    close: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

async function post(
  server: Server,
  key: string | undefined,
  sent: Sent,
  path: string,
): Promise<Got> {
  const { port } = server.address() as AddressInfo;
  const keyed = key === undefined ? {} : { "Idempotency-Key": key };
  const length = { "Content-Length": Buffer.byteLength(sent.body) };
  const headers = { ...length, ...sent.headers, ...keyed };
  const call = request({ port, host: "127.0.0.1", method: "POST", path, headers });
  call.end(sent.body);
  const [response] = (await once(call, "response")) as [
    AsyncIterable<Uint8Array> & { statusCode: number; headers: Got["headers"] },
  ];
  const chunks: Uint8Array[] = [];
  for await (const chunk of response) chunks.push(chunk);
  // An answer may be complete before the body is.
  if (!call.writableFinished) await once(call, "finish");
  return {
    status: response.statusCode,
    replayed: response.headers["idempotent-replayed"] === "true",
    headers: response.headers,
    body: bodyOf(Buffer.concat(chunks).toString()),
  };
}

/** Of what is no JSON, nothing is looked at. */
function bodyOf(text: string): Got["body"] {
  return text.startsWith("{") ? (JSON.parse(text) as Got["body"]) : {};
}

export type Part = {
  readonly name: string;
  readonly value: string | Uint8Array;
  readonly filename?: string;
  readonly type?: string;
};

let boundaries = 0;

/** A multipart form under a boundary of its own, as every try of a real client has one. */
export function form(parts: readonly Part[]): Sent {
  const boundary = `----boundary-${(boundaries += 1)}`;
  const chunks = parts.flatMap(({ name, value, filename, type }) => [
    `--${boundary}\r\nContent-Disposition: form-data; name="${name}"`,
    filename === undefined ? "" : `; filename="${filename}"`,
    type === undefined ? "" : `\r\nContent-Type: ${type}`,
    "\r\n\r\n",
    value,
    "\r\n",
  ]);
  const body = Buffer.concat([...chunks, `--${boundary}--\r\n`].map((part) => Buffer.from(part)));
  return { headers: { "Content-Type": `multipart/form-data; boundary=${boundary}` }, body };
}

export const sent = (
  contentType: string,
  body: Uint8Array | string,
  headers: Sent["headers"] = {},
): Sent => ({ headers: { "Content-Type": contentType, ...headers }, body });

export const json = (body: unknown, headers?: Sent["headers"]): Sent =>
  sent("application/json", JSON.stringify(body), headers);

export const urlencoded = (body: string): Sent => sent("application/x-www-form-urlencoded", body);
