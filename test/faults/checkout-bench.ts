/** What tests of checkouts that crash work with: servers on lines that can be held, the provider, and the books of both. */
import { type Database, createDatabase } from "../support/databases.js";
import { type ServerProcess, startServer } from "../support/server-process.js";
import { startTcpProxy, type TcpProxy } from "../support/tcp-proxy.js";
import { chargesOf, type ProviderProcess, startProviderProcess } from "../server/provider-bench.js";
import { type Answer, post, retry } from "./client.js";

/** One server whose every line can be held: to Postgres, to the provider, and to its clients. */
export type Node = {
  readonly server: ServerProcess;
  readonly postgres: TcpProxy;
  readonly provider: TcpProxy;
  readonly front: TcpProxy;
  /** By way of `front`. */
  readonly url: string;
  end(): Promise<void>;
};

export type Shop = {
  readonly database: Database;
  readonly provider: ProviderProcess;
  /** A server on plain lines. */
  server(env?: Record<string, string>): Promise<ServerProcess>;
  /** A server that completes nothing but what its clients ask for. */
  node(env?: Record<string, string>): Promise<Node>;
  end(): Promise<void>;
};

/** Long enough for heartbeats on a busy machine, short enough to wait for. */
export const leaseMs = 1_000;

export async function openShop(
  options: { honoursKeys?: boolean; env?: Record<string, string> } = {},
): Promise<Shop> {
  const database = await createDatabase();
  const provider = await startProviderProcess({ honoursKeys: options.honoursKeys ?? true });
  const closers: (() => Promise<unknown>)[] = [];
  const common = {
    DATABASE_URL: database.url,
    PROVIDER_URL: provider.url,
    PROVIDER_HONOURS_KEYS: String(options.honoursKeys ?? true),
    ONCEKEY_LEASE_MS: String(leaseMs),
    LOG_LEVEL: "silent",
    ...options.env,
  };
  const start = async (env: Record<string, string> = {}): Promise<ServerProcess> => {
    const server = await startServer({ env: { ...common, ...env } });
    closers.push(() => server.kill());
    return server;
  };
  return {
    database,
    provider,
    server: start,
    node: async (env = {}) => {
      const line = async (target: string | number): Promise<TcpProxy> => {
        const proxy = await startTcpProxy({ target });
        closers.push(() => proxy.close());
        return proxy;
      };
      const postgres = await line(database.url);
      const toProvider = await line(provider.url);
      const server = await start({
        DATABASE_URL: postgres.via(database.url),
        PROVIDER_URL: toProvider.via(provider.url),
        ONCEKEY_WORKERS: "off",
        ...env,
      });
      const front = await line(server.port);
      const end = async (): Promise<void> => {
        await server.kill();
        for (const proxy of [front, postgres, toProvider]) await proxy.close();
      };
      const url = `http://127.0.0.1:${front.port}`;
      return { server, postgres, provider: toProvider, front, url, end };
    },
    end: async () => {
      await Promise.all(closers.splice(0).map((close) => close()));
      await provider.kill();
      await database.drop();
    },
  };
}

export const path = "/v1/checkouts";
/** What each test has in stock before it buys one. */
const inStock = 10;

/** Puts an article of its own on sale for a key, and answers the request that buys one of it. */
export async function onSale(
  shop: Pick<Shop, "database">,
  key: string,
): Promise<{ key: string; body: object }> {
  await shop.database.pool.query("INSERT INTO stock VALUES ($1, $2, 1200)", [key, inStock]);
  const items = [{ sku: key, quantity: 1 }];
  return { key, body: { items, currency: "eur", source: "tok_visa", customer: "ada" } };
}

/** What a key has moved. */
export type Effects = {
  /** The checkouts made for it, by their states. */
  readonly checkouts: readonly string[];
  readonly sold: number;
  readonly charges: number;
  readonly receipts: number;
};

export const onceEach: Effects = { checkouts: ["paid"], sold: 1, charges: 1, receipts: 1 };

export async function effectsOf(shop: Shop, key: string): Promise<Effects> {
  const { pool } = shop.database;
  const checkouts = await pool.query<{ id: string; status: string }>(
    "SELECT id, status FROM checkouts WHERE idempotency_key = $1",
    [key],
  );
  const stock = await pool.query<{ available: number }>(
    "SELECT available FROM stock WHERE sku = $1",
    [key],
  );
  const receipts = await pool.query(
    "SELECT FROM idempotency_outbox WHERE key = $1 AND topic = 'receipt'",
    [key],
  );
  const charges = await Promise.all(
    checkouts.rows.map(({ id }) => chargesOf(shop.provider.url, id)),
  );
  return {
    checkouts: checkouts.rows.map(({ status }) => status),
    sold: inStock - (stock.rows[0]?.available ?? Number.NaN),
    charges: charges.flat().length,
    receipts: receipts.rowCount ?? 0,
  };
}

/** Every row that belongs to a key, as it stands. */
export async function rowsOf(shop: Shop, key: string): Promise<string> {
  const { rows } = await shop.database.pool.query<{ all: string }>(
    `SELECT jsonb_pretty(jsonb_build_array(
       (SELECT to_jsonb(k) FROM idempotency_keys k WHERE k.key = $1),
       (SELECT jsonb_agg(s ORDER BY s.position) FROM idempotency_steps s WHERE s.key = $1),
       (SELECT jsonb_agg(o ORDER BY o.sequence) FROM idempotency_outbox o WHERE o.key = $1),
       (SELECT jsonb_agg(c ORDER BY c.id) FROM checkouts c WHERE c.idempotency_key = $1),
       (SELECT to_jsonb(a) FROM stock a WHERE a.sku = $1))) AS all`,
    [key],
  );
  return rows[0]?.all ?? "";
}

export async function stateOf(shop: Shop, key: string): Promise<string | undefined> {
  const { rows } = await shop.database.pool.query<{ state: string }>(
    "SELECT state FROM idempotency_keys WHERE key = $1",
    [key],
  );
  return rows[0]?.state;
}

/** Buys by retrying, and then holds every further answer against the first. */
export async function sameEverAfter(
  urls: readonly string[],
  call: { key: string; body: object },
): Promise<Answer> {
  const made = await retry(urls[0]!, path, call);
  for (const url of [...urls, ...urls]) {
    const again = await post(url, path, call);
    if (!again.bytes.equals(made.bytes) || again.status !== made.status)
      throw new Error(
        `${made.status} ${made.bytes.toString()} became ${again.status} ${again.bytes.toString()}`,
      );
  }
  return made;
}

/** Processes that live at a time; each run is mostly waiting for a lease to end. */
const atATime = 4;

/** Runs all of them, a few at a time, and answers at once with what each will come to. */
export function inTurns<Result>(
  runs: readonly { readonly name: string; readonly run: () => Promise<Result> }[],
): ReadonlyMap<string, Promise<Result>> {
  const waiting = [...runs];
  const results = new Map<string, Promise<Result>>();
  const begin = new Map<string, (result: Promise<Result>) => void>();
  for (const { name } of runs) {
    const result = new Promise<Result>((resolve) => begin.set(name, resolve));
    // Whoever asks for it is told; nobody asks for those of tests that were left out.
    result.catch(() => undefined);
    results.set(name, result);
  }
  const worker = async (): Promise<void> => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      const running = next.run();
      begin.get(next.name)?.(running);
      await running.catch(() => undefined);
    }
  };
  for (let count = 0; count < atATime; count += 1) void worker();
  return results;
}
