/** An outbox worker in a process of its own, to be frozen and killed. Prints what happens, one line an event. */
import pg from "pg";

import { outboxWorker, webhookDestination } from "../../../src/outbox.js";

type Settings = { databaseUrl: string; url: string; secret: string; worker?: object };

const settings = JSON.parse(process.env["OUTBOX"] ?? "{}") as Settings;
const pool = new pg.Pool({ connectionString: settings.databaseUrl, max: 2 });
pool.on("error", () => undefined);
const worker = outboxWorker({
  pool,
  destination: webhookDestination({ url: settings.url, secret: settings.secret }),
  pollMs: 20,
  ...settings.worker,
  hooks: {
    onEvent: (event) => console.log(event.type, "error" in event ? String(event.error) : ""),
  },
});
worker.start();
process.on("SIGTERM", () => {
  void worker
    .stop()
    .then(() => pool.end())
    .then(() => console.log("stopped"));
});
console.log("ready");
