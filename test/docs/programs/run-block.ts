/**
 * Runs one block of code of a page in a process of its own: the block itself, then every route that it has mounted, twice under
 * one key, and its shutdown where it has one. Ends with 0 when all of that went well.
 */
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { basename } from "node:path";

import { waitFor } from "../../support/wait-for.js";
import { app, pool } from "./wrapper.js";

type Plan = {
  readonly module: string;
  readonly port: number;
  readonly paths: string[];
  readonly stops: boolean;
};

const plan = JSON.parse(process.argv[2] as string) as Plan;

async function send(
  url: string,
  key: string,
): Promise<{ status: number; text: string; replayed: boolean }> {
  const headers = { "Content-Type": "application/json", "Idempotency-Key": key };
  const response = await fetch(url, { method: "POST", headers, body: '{"amount":5}' });
  const replayed = response.headers.get("idempotent-replayed") === "true";
  return { status: response.status, text: await response.text(), replayed };
}

async function exercise(): Promise<void> {
  let { port } = plan;
  if (plan.paths.length > 0 && port === 0) {
    const server = app.listen(0, "127.0.0.1");
    await once(server, "listening");
    ({ port } = server.address() as AddressInfo);
  }
  for (const path of plan.paths) {
    const url = `http://127.0.0.1:${port}${path}`;
    const key = `${basename(plan.module)}${path}`;
    const first = await waitFor(() => send(url, key), { what: url });
    const second = await send(url, key);
    const isOnce = first.status === 201 && first.text === second.text && second.status === 201;
    if (!isOnce || first.replayed || !second.replayed)
      throw new Error(`${path}: ${JSON.stringify([first, second])}`);
  }
}

const { main } = (await import(plan.module)) as { main: () => Promise<void> };
await main();
await exercise();
if (plan.stops) {
  process.emit("SIGTERM");
  await waitFor(() => pool.ended, { what: "the shutdown" });
}
process.exit(0);
