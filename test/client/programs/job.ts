/** A job that makes one payment, notes its answer in a file, and only then lets go of the key. */
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { createClient } from "../../../src/client/client.js";
import { fileKeys } from "./file-keys.js";

const [url, folder, pauseAt] = process.argv.slice(2) as [string, string, string | undefined];
const call = "invoice/2026-01";
const note = join(folder, "answer");

/** Says where it is, and stays there for the test to kill it where that was asked for. */
async function reach(point: string): Promise<void> {
  console.log(point);
  if (point === pauseAt) await new Promise((done) => setTimeout(done, 600_000));
}

const send = createClient({ keys: fileKeys(folder), firstDelayMs: 10 });
if (!existsSync(note)) {
  const response = await send(`${url}/payments`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ name: call }),
    call,
  });
  await reach("answered");
  writeFileSync(note, `${response.status} ${await response.text()}`, { flush: true });
}
await reach("noted");
await send.forget(call);
await reach("done");
