/** The payments API on a database of its own and the shared Redis, started in this process as `oncekey serve` starts it. */
import { randomUUID } from "node:crypto";
import { type Agent, request as httpRequest } from "node:http";
import { Writable } from "node:stream";

import type pg from "pg";

import { readConfig } from "../../src/server/config.js";
import { type RunningServer, startServer } from "../../src/server/start.js";
import { createDatabase, type Database } from "../support/databases.js";
import { temporaryDirectory } from "../support/processes.js";
import { redisUrl } from "../support/servers.js";

export type Api = {
  readonly url: string;
  readonly databaseUrl: string;
  /** For looking at what was written. */
  readonly pool: pg.Pool;
  /** Every line that was logged so far. */
  readonly log: string;
  /** What the charges of an idempotency key, or all charges, come to. */
  countCharges(key?: string): Promise<number>;
  /** Another server on the same database, without Redis and with empty caches; closed with this one. */
  another(env?: Record<string, string>): Promise<RunningServer>;
};

export const accountA = { Authorization: "Bearer sk_test_a" };
export const accountB = { Authorization: "Bearer sk_test_b" };
export const charge = { amount: 2000, currency: "eur", source: "tok_visa" };
export const order = {
  currency: "eur",
  items: [{ sku: "mug", quantity: 2, unit_amount: 1250 }],
};

export const checkout = {
  currency: "eur",
  items: [{ sku: "mug", quantity: 2 }],
  source: "tok_visa",
};

/** Files that run side by side share Redis, so no key is ever used twice. */
export function newKey(): string {
  return `key-${randomUUID()}`;
}

type Started = { database: Database; servers: RunningServer[]; server: RunningServer };

/**
 * Starts the API before the tests of a file or `describe` block, and stops it after them: first the server, then the
 * database, which checks that every connection was given back.
 */
export function useApi(env: Record<string, string> = {}): Api {
  let started: Started | undefined;
  let dataDirectory = "";
  let log = "";
  const logStream = new Writable({
    write(chunk: Buffer, _encoding, done) {
      log += chunk.toString();
      done();
    },
  });
  const start = async (url: string, extra: Record<string, string>): Promise<RunningServer> => {
    const config = readConfig({
      PORT: "0",
      HOST: "127.0.0.1",
      DATABASE_URL: url,
      // The books of the built-in payment provider.
      ONCEKEY_DATA_DIR: dataDirectory,
      ONCEKEY_API_KEYS: "sk_test_a=acct_a,sk_test_b=acct_b,sk_live_a=acct_a",
      ...env,
      ...extra,
    });
    const server = await startServer(config, { say: () => {}, logStream });
    return server;
  };
  const current = (): Started => {
    if (started === undefined) throw new Error("The API exists inside tests and hooks only.");
    return started;
  };

  beforeAll(async () => {
    const database = await createDatabase();
    dataDirectory = temporaryDirectory("api");
    const server = await start(database.url, { REDIS_URL: redisUrl() });
    started = { database, server, servers: [server] };
  });
  afterAll(async () => {
    for (const server of started?.servers ?? []) await server.close();
    await started?.database.drop();
  });

  return {
    get url() {
      return current().server.url;
    },
    get databaseUrl() {
      return current().database.url;
    },
    get pool() {
      return current().database.pool;
    },
    get log() {
      return log;
    },
    async countCharges(key) {
      const { rows } = await current().database.pool.query<{ count: number }>(
        "select count(*)::int as count from charges where $1::text is null or idempotency_key = $1",
        [key ?? null],
      );
      return rows[0]?.count ?? 0;
    },
    async another(extra = {}) {
      const server = await start(current().database.url, extra);
      current().servers.push(server);
      return server;
    },
  };
}

export type RawResponse = {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  /** The body as it came. */
  bytes: Buffer;
  json: () => Record<string, unknown>;
};

export type RawRequest = {
  method?: string;
  /** Name and value, each line as it is sent: repeated and odd headers too. */
  headers?: readonly (readonly [string, string])[];
  body?: string | Buffer;
  /** Default: a connection of its own. */
  agent?: Agent;
};

/** A request that is sent as it stands, for what HTTP libraries would mend, and whose answer is kept byte for byte. */
export function send(url: string, path: string, request: RawRequest = {}): Promise<RawResponse> {
  const { port, hostname } = new URL(url);
  return new Promise((resolve, reject) => {
    const outgoing = httpRequest({
      hostname,
      port,
      path,
      method: request.method ?? "POST",
      agent: request.agent ?? false,
      headers: ["Host", "test", ...(request.headers ?? []).flat()],
    });
    outgoing.on("error", reject);
    outgoing.on("response", (incoming) => {
      const chunks: Buffer[] = [];
      incoming.on("data", (chunk: Buffer) => chunks.push(chunk));
      incoming.on("error", reject);
      incoming.on("end", () => {
        const bytes = Buffer.concat(chunks);
        const { statusCode: status = 0, headers } = incoming;
        const json = (): Record<string, unknown> =>
          JSON.parse(bytes.toString()) as Record<string, unknown>;
        resolve({ status, headers, bytes, json });
      });
    });
    outgoing.end(request.body);
  });
}

/** A JSON POST of account A, unless told otherwise. */
export function post(
  url: string,
  path: string,
  body: unknown,
  headers: Record<string, string> = {},
  agent?: Agent,
): Promise<RawResponse> {
  const text = typeof body === "string" ? body : JSON.stringify(body);
  const all = {
    ...accountA,
    "Content-Type": "application/json",
    "Content-Length": String(Buffer.byteLength(text)),
    ...headers,
  };
  return send(url, path, {
    headers: Object.entries(all),
    body: text,
    ...(agent === undefined ? {} : { agent }),
  });
}

export function get(
  url: string,
  path: string,
  headers: Record<string, string> = accountA,
): Promise<RawResponse> {
  return send(url, path, { method: "GET", headers: Object.entries(headers) });
}
