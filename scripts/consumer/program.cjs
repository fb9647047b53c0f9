/** A user's program: JavaScript, CommonJS. scripts/package-matrix.mjs installs the packed package beside it and runs it. */
"use strict";

const { randomUUID } = require("node:crypto");

const express = require("express");
const { createIdempotency } = require("oncekey");
const { memoryStore } = require("oncekey/memory");

const idempotent = createIdempotency({ store: memoryStore(), scope: "global" });
const app = express();
app.use(express.json());

let runs = 0;
app.post("/orders", idempotent({ required: true }), (req, res) => {
  runs += 1;
  res.status(201).json({ id: randomUUID(), item: req.body.item, key: req.idempotency.key });
});
app.get("/runs", (_req, res) => {
  res.json(runs);
});
app.post("/stop", (_req, res) => {
  res.set("Connection", "close").end();
  server.close(() => idempotent.close());
});
const server = app.listen(0, "127.0.0.1", () => console.log(server.address().port));
