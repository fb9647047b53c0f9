/** Every await of a checkout, as what passes a line of its server there. */
import type { Held } from "../support/tcp-proxy.js";
import type { Node } from "./checkout-bench.js";

export type Point = {
  readonly name: string;
  readonly line: "postgres" | "provider" | "front";
  readonly pattern: RegExp;
  readonly nth?: number;
  /** Before it is passed on, or when it is done and its answer is on the way. */
  readonly when: "before" | "after";
};

/** Bind of a prepared statement; its name follows the empty name of the portal. */
const bound = (name: string, text = ""): RegExp =>
  new RegExp(`\\0oncekey_${name}\\0${text === "" ? "" : `[^]{0,400}${text}`}`);
const begin = /BEGIN ISOLATION[^\0]*\0/;
const commit = /COMMIT\0/;

export const awaits: readonly Omit<Point, "when">[] = [
  { name: "the claim", line: "postgres", pattern: bound("claim") },
  { name: "BEGIN of reserve", line: "postgres", pattern: begin },
  { name: "the limits of reserve", line: "postgres", pattern: bound("tx-begin") },
  { name: "the lock of reserve", line: "postgres", pattern: bound("steps-lock") },
  { name: "the look at the stock", line: "postgres", pattern: /FROM stock/ },
  { name: "the change of the stock", line: "postgres", pattern: /UPDATE stock/ },
  { name: "the row of the checkout", line: "postgres", pattern: /INSERT INTO checkouts/ },
  {
    name: "the recovery point of reserve",
    line: "postgres",
    pattern: bound("steps-save", "reserve"),
  },
  { name: "COMMIT of reserve", line: "postgres", pattern: commit },
  { name: "the provider's charge", line: "provider", pattern: /POST \/charges/ },
  {
    name: "the recovery point of charge",
    line: "postgres",
    pattern: bound("steps-save", "charge"),
  },
  { name: "BEGIN of paid", line: "postgres", pattern: begin, nth: 2 },
  { name: "the lock of paid", line: "postgres", pattern: bound("steps-lock"), nth: 2 },
  { name: "the payment in the books", line: "postgres", pattern: /UPDATE checkouts/ },
  { name: "the recovery point of paid", line: "postgres", pattern: bound("steps-save", "paid") },
  { name: "COMMIT of paid", line: "postgres", pattern: commit, nth: 2 },
  { name: "BEGIN of the receipt", line: "postgres", pattern: begin, nth: 3 },
  {
    name: "the recovery point of the receipt",
    line: "postgres",
    pattern: /INTO [^ ]*idempotency_steps[^]*send 1 receipt/,
  },
  { name: "the message in the outbox", line: "postgres", pattern: /INTO [^ ]*idempotency_outbox/ },
  { name: "COMMIT of the receipt", line: "postgres", pattern: commit, nth: 3 },
  { name: "the completion", line: "postgres", pattern: bound("complete") },
];

export const points: readonly Point[] = [
  ...awaits.flatMap((each): Point[] => [
    { ...each, when: "before" },
    { ...each, when: "after" },
  ]),
  // On its way to the client, which never sees it.
  { name: "the first byte", line: "front", pattern: /POST \/v1\/checkouts/, when: "after" },
];

/** Resolves when the server waits at this point, or with undefined when the request is over before. */
export async function waitAt(
  node: Node,
  { line, pattern, nth = 1, when }: Point,
  over: Promise<unknown>,
): Promise<Held | undefined> {
  const holding = node[line].holdAt(pattern, { nth, reply: when === "after" });
  return Promise.race([holding, over.then(() => undefined)]);
}
