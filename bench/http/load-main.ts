/** The process of the load generator: orders as lines of JSON on standard input, results as lines on standard output. */
import { createInterface } from "node:readline";
import { run, store, type LoadOrder } from "./load.js";

type Line = LoadOrder & { readonly store?: number };

process.stdout.write("ready\n");
for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line) as Line;
  if (order.store === undefined) process.stdout.write(`${JSON.stringify(await run(order))}\n`);
  else {
    await store(order, order.store);
    process.stdout.write("{}\n");
  }
}
