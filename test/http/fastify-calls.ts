/** Two ways to call a Fastify app that must not differ: through a real socket, and as its users' tests do, by inject. */
import { request as httpRequest } from "node:http";
import type { AddressInfo } from "node:net";

import type { FastifyInstance } from "fastify";

export interface Call {
  readonly method?: string;
  readonly url?: string;
  readonly key?: string | undefined;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: unknown;
}

export interface Answered {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly bytes: Buffer;
  readonly json: () => Record<string, unknown>;
}

export type Caller = (app: FastifyInstance, call: Call) => Promise<Answered>;

function headersOf({ key, headers, body }: Call): Record<string, string> {
  return {
    ...(body === undefined || typeof body === "string"
      ? {}
      : { "content-type": "application/json" }),
    ...(key === undefined ? {} : { "idempotency-key": key }),
    ...headers,
  };
}

function answered(status: number, headers: Answered["headers"], bytes: Buffer): Answered {
  return {
    status,
    headers,
    bytes,
    json: () => JSON.parse(bytes.toString()) as Record<string, unknown>,
  };
}

export const byInject: Caller = async (app, call) => {
  const { statusCode, headers, rawPayload } = await app.inject({
    method: (call.method ?? "POST") as "POST",
    url: call.url ?? "/orders",
    headers: headersOf(call),
    ...(call.body === undefined ? {} : { payload: call.body as string }),
  });
  return answered(statusCode, headers as Answered["headers"], rawPayload);
};

export const bySocket: Caller = async (app, call) => {
  if (!app.server.listening) await app.listen({ port: 0, host: "127.0.0.1" });
  const { port } = app.server.address() as AddressInfo;
  const body = typeof call.body === "string" ? call.body : JSON.stringify(call.body);
  return new Promise((resolve, reject) => {
    const { method = "POST", url = "/orders" } = call;
    const length = body === undefined ? {} : { "content-length": String(Buffer.byteLength(body)) };
    const headers = { ...headersOf(call), ...length };
    const sent = httpRequest({ port, path: url, method, headers, agent: false }, (response) => {
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.on("error", reject);
      response.on("end", () =>
        resolve(answered(response.statusCode ?? 0, response.headers, Buffer.concat(chunks))),
      );
    });
    sent.on("error", reject);
    sent.end(body);
  });
};

export const callers: readonly (readonly [string, Caller])[] = [
  ["a socket", bySocket],
  ["inject", byInject],
];
