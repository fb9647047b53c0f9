/** Equal requests in any spelling are one request, and any changed field is named. */
import { brotliCompressSync, gzipSync } from "node:zlib";

import express from "express";
import fc from "fast-check";
import multer from "multer";

import { createIdempotency, keepRawBody } from "../../src/index.js";
import type { Idempotency } from "../../src/index.js";
import { memoryStore } from "../../src/stores/memory.js";
import { form, json, sent, serve } from "./bodies.js";
import type { Part, Running, Sent } from "./bodies.js";

let counter = 0;
const newKey = (): string => `spelling-${(counter += 1)}`;

let idempotent: Idempotency;
beforeAll(() => {
  idempotent = createIdempotency({ store: memoryStore(), scope: "global" });
});
afterAll(() => idempotent.close());

describe("any JSON", () => {
  let app: Running;

  beforeAll(async () => {
    app = await serve(express, [express.json({ verify: keepRawBody }), idempotent()]);
  });
  afterAll(() => app.close());

  const value = fc.oneof(
    fc.string(),
    fc.integer(),
    fc.double({ noNaN: true, noDefaultInfinity: true }),
    fc.boolean(),
    fc.constant(null),
  );
  const fields = fc.dictionary(
    fc.stringMatching(/^[a-z]{1,8}$/),
    fc.oneof(value, fc.array(value, { maxLength: 3 })),
    { minKeys: 1, maxKeys: 8 },
  );

  const spellings: ((body: object) => Sent)[] = [
    (body) => json(body),
    (body) => sent("application/json", JSON.stringify(body, null, 3)),
    (body) => json(Object.fromEntries(Object.entries(body).toReversed())),
    (body) =>
      sent("Application/JSON; charset=UTF-8", gzipSync(JSON.stringify(body)), {
        "Content-Encoding": "gzip",
      }),
    (body) =>
      sent("application/json", brotliCompressSync(JSON.stringify(body)), {
        "Content-Encoding": "br",
      }),
  ];

  test("is the same request in every spelling, and another one with any field changed", async () => {
    await fc.assert(
      fc.asyncProperty(fields, fc.nat(), async (body, choice) => {
        const key = newKey();
        expect(await app.post(key, json(body))).toMatchObject({ status: 201, replayed: false });
        for (const spelling of spellings)
          expect(await app.post(key, spelling(body))).toMatchObject({
            status: 201,
            replayed: true,
          });
        const names = Object.keys(body);
        const name = names[choice % names.length] as string;
        const changed = { ...body, [name]: `${JSON.stringify(body[name])}!` };
        const told = await app.post(key, json(changed));
        expect(told).toMatchObject({ status: 422, body: { code: "key_reused" } });
        const differs = told.body.differs ?? [];
        expect(differs).not.toEqual([]);
        for (const field of differs)
          expect(field).toMatch(new RegExp(`^body\\.${name}(\\[\\d\\])?$`));
      }),
      { numRuns: 60 },
    );
  });
});

describe("any form of parts", () => {
  let app: Running;

  beforeAll(async () => {
    app = await serve(express, [multer().any(), idempotent()]);
  });
  afterAll(() => app.close());

  const name = fc.stringMatching(/^[a-z]{1,6}$/);
  const bytes = fc.uint8Array({ maxLength: 40 });
  const file = fc.record({
    name,
    value: bytes,
    filename: fc.stringMatching(/^[a-z]{1,6}\.png$/),
    type: fc.constantFrom("image/png", "image/gif"),
  });
  const field = fc.record({ name, value: fc.stringMatching(/^[ -~]{0,12}$/) });
  const parts = fc.uniqueArray(fc.oneof(file, field), {
    selector: (part) => part.name,
    minLength: 1,
    maxLength: 5,
  });

  const changed = (part: Part): Part => ({
    ...part,
    value: Buffer.concat([Buffer.from(part.value), Buffer.from("!")]),
  });
  const nameOf = (part: Part): string =>
    part.filename === undefined ? `body.${part.name}` : `body.file.${part.name}`;

  test("is the same request under any boundary and order, and another one with any part changed", async () => {
    await fc.assert(
      fc.asyncProperty(parts, fc.nat(), async (all: Part[], choice) => {
        const key = newKey();
        expect(await app.post(key, form(all))).toMatchObject({ status: 201, replayed: false });
        for (const again of [all, all.toReversed()])
          expect(await app.post(key, form(again))).toMatchObject({ status: 201, replayed: true });
        const at = choice % all.length;
        const others = all.map((part, index) => (index === at ? changed(part) : part));
        expect(await app.post(key, form(others))).toMatchObject({
          status: 422,
          body: { differs: [nameOf(all[at] as Part)] },
        });
      }),
      { numRuns: 60 },
    );
  });
});
