/** A steps route keeps its request: a body that it could not keep is refused, whatever stands for it in the fingerprint. */
import { createHash } from "node:crypto";

import express from "express";
import multer from "multer";

import { createIdempotency } from "../../src/index.js";
import type { Idempotency } from "../../src/index.js";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { useDatabase } from "../support/databases.js";
import { form, json, sent, serve } from "./bodies.js";
import type { Running, Sent } from "./bodies.js";

const database = useDatabase({ prepare: (pool) => migrate({ pool }) });
describe("a steps route", () => {
  let idempotent: Idempotency;
  let app: Running;
  const bodies: unknown[] = [];

  beforeAll(async () => {
    idempotent = createIdempotency({
      store: postgresStore({ pool: database.pool }),
      scope: "global",
      workers: false,
    });
    const steps = idempotent.steps("keep", async ({ body }) => {
      bodies.push(body);
      return { status: 201, body: {} };
    });
    app = await serve(express, [express.json(), multer().any(), steps]);
  });
  afterAll(async () => {
    await app.close();
    await idempotent.close();
  });

  const digest = `sha-256=:${createHash("sha256").update("x").digest("base64")}:`;
  const file = { name: "scan", value: "x", filename: "a.png", type: "image/png" };

  test.each<[string, Sent]>([
    ["files", form([{ name: "title", value: "a" }, file])],
    ["a body that nobody has read", sent("image/png", "x", { "Content-Digest": digest })],
  ])("%s", async (_what, request) => {
    expect(await app.post("of-steps-1", request)).toMatchObject({
      status: 500,
      body: { code: "body_not_parsed" },
    });
    expect(bodies).toEqual([]);
    expect(await idempotent.find({ scope: "global", key: "of-steps-1" })).toBeUndefined();
  });

  test("what it can keep runs", async () => {
    expect(await app.post("of-steps-2", json({ a: 1 }))).toMatchObject({ status: 201 });
    expect(await app.post("of-steps-3", form([{ name: "a", value: "1" }]))).toMatchObject({
      status: 201,
    });
    expect(JSON.parse(JSON.stringify(bodies))).toEqual([{ a: 1 }, { a: "1" }]);
  });
});
