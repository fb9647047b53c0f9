/** An API with the middleware in front of real rows, for pages of another origin too, and a page that holds the client. */
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";

import express from "express";
import type pg from "pg";

import { createIdempotency } from "../../src/index.js";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { type Database, createDatabase } from "../support/databases.js";
import { bundle } from "./bundle.js";

export type Shop = {
  readonly url: string;
  /** The names of all payments that were made, in order. */
  payments(): Promise<string[]>;
  close(): Promise<void>;
};

const schema = "CREATE TABLE payments (id bigint GENERATED ALWAYS AS IDENTITY, name text NOT NULL)";

/** What a page may send and see across origins; docs/client.md says the same. */
const cors = {
  "Access-Control-Allow-Origin": "*",
  "Access-Control-Allow-Methods": "POST",
  "Access-Control-Allow-Headers": "Content-Type, Idempotency-Key",
  "Access-Control-Expose-Headers": "Idempotent-Replayed, Retry-After",
};

const page = `<!doctype html>
<title>shop</title>
<link rel="icon" href="data:,">
<script type="module">
  import * as client from "/client.js";
  Object.assign(globalThis, client, { loaded: true });
</script>`;

export async function startShop(): Promise<Shop> {
  const database: Database = await createDatabase({
    prepare: async (pool: pg.Pool) => {
      await migrate({ pool });
      await pool.query(schema);
    },
  });
  const idempotent = createIdempotency({
    store: postgresStore({ pool: database.pool }),
    scope: "global",
  });
  const app = express();
  app.get("/", (_req, res) => void res.type("html").send(page));
  app.get("/client.js", async (_req, res) => void res.type("js").send(await bundle()));
  app.use((_req, res, next) => {
    res.set(cors);
    next();
  });
  app.options("/payments", (_req, res) => void res.status(204).end());
  app.post(
    "/payments",
    express.json(),
    idempotent.transaction({ required: true }, async (req, res, tx) => {
      const { name } = req.body as { name: string };
      const insert = "INSERT INTO payments (name) VALUES ($1) RETURNING id::int AS id";
      const { rows } = await tx.query<{ id: number }>(insert, [name]);
      res.status(201).json({ id: rows[0]?.id, name });
    }),
  );
  const server = await new Promise<Server>((done) => {
    const listening = app.listen(0, "127.0.0.1", () => done(listening));
  });
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    async payments() {
      const { rows } = await database.pool.query<{ name: string }>(
        'SELECT name FROM payments ORDER BY name COLLATE "C"',
      );
      return rows.map(({ name }) => name);
    },
    async close() {
      await idempotent.close();
      server.closeAllConnections();
      await new Promise<void>((done) => void server.close(() => done()));
      await database.drop();
    },
  };
}
