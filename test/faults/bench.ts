/** What a file of fault tests works with: a database, a gate, and processes and proxies that end with each test. */
import { connect, createServer, type AddressInfo } from "node:net";

import type pg from "pg";

import type { Database } from "../support/databases.js";
import { type ServerProcess, startServer } from "../support/server-process.js";
import { startTcpProxy, type ProxyOptions, type TcpProxy } from "../support/tcp-proxy.js";
import { type Gate, startGate } from "./gate.js";
import { createShopDatabase, moveClock, type Shop, type ShopSettings, startShop } from "./shop.js";

export type Bench = {
  readonly gate: Gate;
  readonly databaseUrl: string;
  /** Goes straight to Postgres, past every proxy. */
  readonly pool: pg.Pool;
  /** The shop program on the file's database, unless told otherwise. */
  shop(settings?: Partial<Omit<ShopSettings, "gate">>): Promise<Shop>;
  /** `oncekey serve` on the file's database, unless told otherwise. */
  server(env?: Record<string, string>): Promise<ServerProcess>;
  /** A line to the file's Postgres, unless told otherwise. */
  proxy(options?: Partial<ProxyOptions>): Promise<Line>;
};

/** A way to a server that can be cut, and shut for new connections. */
export type Line = Pick<TcpProxy, "cutAt" | "cutAll" | "via"> & {
  /** Connections that the client has open. */
  readonly open: number;
  /** Cuts every connection and lets no new one through, until `heal`. */
  refuse(): void;
  /** How many connections were refused: tries that failed for certain. */
  readonly refused: number;
  heal(): void;
};

/** COMMIT as it travels; the word alone is part of BEGIN ISOLATION LEVEL READ COMMITTED as well. */
export const commitMessage = /COMMIT\0/;

/** Bind, or Parse and Bind, of one of the store's prepared statements. */
export function statement(name: string): RegExp {
  return new RegExp(`oncekey_${name}\\0`);
}

export function useBench(serverUrl: () => string | undefined = () => undefined): Bench {
  let database: Database | undefined;
  let gate: Gate | undefined;
  const closers: (() => Promise<unknown>)[] = [];

  beforeAll(async () => {
    database = await createShopDatabase(serverUrl());
    gate = await startGate();
  });
  afterEach(async () => {
    for (let close = closers.pop(); close !== undefined; close = closers.pop()) await close();
    await moveClock(current().pool, 0);
  });
  afterAll(async () => {
    await gate?.close();
    await database?.drop();
  });

  const current = (): Database => {
    if (database === undefined) throw new Error("The bench exists inside tests and hooks only.");
    return database;
  };
  return {
    get gate() {
      if (gate === undefined) throw new Error("The gate exists inside tests and hooks only.");
      return gate;
    },
    get databaseUrl() {
      return current().url;
    },
    get pool() {
      return current().pool;
    },
    async shop(settings = {}) {
      const shop = await startShop({
        databaseUrl: current().url,
        gate: this.gate,
        ...settings,
      });
      closers.push(() => shop.kill());
      return shop;
    },
    async server(env = {}) {
      const server = await startServer({ env: { DATABASE_URL: current().url, ...env } });
      closers.push(() => server.kill());
      return server;
    },
    async proxy(options = {}) {
      const proxy = await startTcpProxy({ target: current().url, ...options });
      closers.push(() => proxy.close());
      const line = await startLine(proxy);
      closers.push(() => line.close());
      return line;
    },
  };
}

/** A door in front of the proxy, since only a door can count whom it turned away. */
async function startLine(proxy: TcpProxy): Promise<Line & { close(): Promise<void> }> {
  let isShut = false;
  let refused = 0;
  let open = 0;
  const door = createServer((client) => {
    client.on("error", () => undefined);
    if (isShut) {
      refused += 1;
      client.resetAndDestroy();
      return;
    }
    open += 1;
    const through = connect({ port: proxy.port, host: "127.0.0.1", noDelay: true });
    client.setNoDelay(true);
    through.on("error", () => client.resetAndDestroy());
    client.on("close", () => {
      open -= 1;
      through.destroy();
    });
    through.on("close", () => client.destroySoon());
    client.pipe(through);
    through.pipe(client);
  });
  await new Promise<void>((done) => {
    door.listen(0, "127.0.0.1", done);
  });
  const { port } = door.address() as AddressInfo;
  return {
    cutAt: (pattern, cut) => proxy.cutAt(pattern, cut),
    cutAll: () => proxy.cutAll(),
    get open() {
      return open;
    },
    via: (url) => {
      const through = new URL(proxy.via(url));
      through.port = String(port);
      return through.href;
    },
    refuse: () => {
      isShut = true;
      proxy.cutAll();
    },
    get refused() {
      return refused;
    },
    heal: () => {
      isShut = false;
      proxy.heal();
    },
    close: async () => {
      proxy.cutAll();
      await new Promise<void>((done) => {
        door.close(() => done());
      });
    },
  };
}
