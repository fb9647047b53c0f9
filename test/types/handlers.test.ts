/** What TypeScript makes of handlers that are written inline, as the README shows them; `npm run typecheck` is the test. */
import express from "express";
import pg from "pg";

import { createIdempotency } from "../../src/index.js";
import type { RouteOptions } from "../../src/index.js";
import { postgresStore } from "../../src/stores/postgres.js";

test("inline handlers know Express' request and response and pg's client", async () => {
  const pool = new pg.Pool();
  const idempotent = createIdempotency({
    store: postgresStore({ pool }),
    scope: (req) => req.get("x-account") ?? "nobody",
    workers: false,
  });
  const app = express();
  app.post("/orders", idempotent({ required: true }), (req, res) => {
    res.status(201).json({ key: req.idempotency?.key });
  });
  app.post(
    "/charges",
    idempotent.transaction(async (req, res, tx) => {
      const result = await tx.query<{ id: number }>("SELECT $1::int AS id", [req.body.id]);
      res.status(201).json({ id: result.rows[0]?.id });
    }),
  );
  app.post(
    "/refunds/:id",
    idempotent.transaction({ required: true }, async (req, res, tx) => {
      await tx.query("SELECT 1");
      res.status(201).json({ id: req.params["id"] });
    }),
  );
  app.post(
    "/webhooks/:sender",
    idempotent({ key: (req) => req.body.id, fingerprint: (req) => req.params["sender"] }),
    idempotent.transaction(
      { key: async (req) => req.get("X-Delivery"), ignoreFields: ["body.sentAt"] },
      async (req, res, tx) => {
        await tx.query("SELECT 1");
        res.json({ id: req.body.id });
      },
    ),
  );
  const ofRoute: RouteOptions<express.Request> = { key: (req) => req.get("X-Delivery") };
  app.post("/events", idempotent(ofRoute), (_req, res) => void res.end());
  app.post(
    "/jobs",
    idempotent.steps("job", { key: (req) => req.body.id }, async () => ({ status: 202 })),
  );
  app.post(
    "/checkouts",
    idempotent.steps("checkout", async (request, steps) => {
      const id = await steps.transaction(
        "reserve",
        async (tx) => (await tx.query("SELECT 1")).rowCount,
      );
      return { status: 201, body: { id, key: request.key } };
    }),
  );
  expect(app).toBeInstanceOf(Function);
  await idempotent.close();
  await pool.end();
});
