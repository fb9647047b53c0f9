/** What is compared with what. The first contender of a suite is what the others are divided by. */
import type { LoadOrder } from "./load.js";

export interface Entrant {
  readonly contender: string;
  readonly keys: LoadOrder["keys"];
  /** What the row is called; default the contender's name. */
  readonly label?: string;
}

export interface Suite {
  readonly name: string;
  readonly title: string;
  readonly entrants: readonly Entrant[];
  /** Open loop, requests a second; absent: closed. */
  readonly rate?: number;
  readonly connections: number;
}

/** Enough keys that no tier's answer comes from a processor's cache alone, few enough that all fit the near cache. */
const replayed = 2_000;
const replay = { replay: replayed } as const;

export const suites: readonly Suite[] = [
  {
    name: "first",
    title: "First runs: every request has a new key (closed loop, 50 connections)",
    connections: 50,
    entrants: [
      { contender: "bare", keys: "bare" },
      { contender: "oncekey-plain", keys: "first" },
      { contender: "oncekey-plain-postgres", keys: "first" },
      { contender: "oncekey-memory", keys: "first" },
      { contender: "express-idempotency-memory", keys: "first" },
      { contender: "express-idempotency-postgres", keys: "first" },
      { contender: "node-idempotency-redis", keys: "first" },
      { contender: "powertools-redis", keys: "first" },
    ],
  },
  {
    name: "replay",
    title: "Replays: every key was answered before (closed loop, 50 connections)",
    connections: 50,
    entrants: [
      { contender: "bare", keys: "bare" },
      { contender: "oncekey-plain", keys: replay, label: "oncekey, near cache" },
      { contender: "oncekey-redis-only", keys: replay, label: "oncekey, from Redis" },
      { contender: "oncekey-postgres-only", keys: replay, label: "oncekey, from Postgres" },
      { contender: "express-idempotency-memory", keys: replay },
      { contender: "express-idempotency-postgres", keys: replay },
      { contender: "node-idempotency-redis", keys: replay },
      { contender: "powertools-redis", keys: replay },
    ],
  },
  {
    name: "transaction",
    title: "Transaction routes: one INSERT in one commit (closed loop, 50 connections)",
    connections: 50,
    entrants: [
      { contender: "transaction-bare", keys: "bare" },
      { contender: "transaction-by-hand", keys: "first" },
      { contender: "oncekey-transaction", keys: "first" },
      { contender: "oncekey-transaction-postgres", keys: "first" },
    ],
  },
  {
    name: "open-first",
    title: "First runs at 1,000 requests a second (open loop)",
    connections: 100,
    rate: 1_000,
    entrants: [
      { contender: "bare", keys: "bare" },
      { contender: "oncekey-plain", keys: "first" },
      { contender: "express-idempotency-postgres", keys: "first" },
      { contender: "node-idempotency-redis", keys: "first" },
    ],
  },
  {
    name: "open-first-half",
    title: "First runs at 400 requests a second (open loop)",
    connections: 100,
    rate: 400,
    entrants: [
      { contender: "bare", keys: "bare" },
      { contender: "oncekey-plain", keys: "first" },
      { contender: "express-idempotency-postgres", keys: "first" },
    ],
  },
  {
    name: "open-replay",
    title: "Replays at 1,000 requests a second (open loop)",
    connections: 100,
    rate: 1_000,
    entrants: [
      { contender: "bare", keys: "bare" },
      { contender: "oncekey-plain", keys: replay, label: "oncekey, near cache" },
      { contender: "oncekey-redis-only", keys: replay, label: "oncekey, from Redis" },
      { contender: "node-idempotency-redis", keys: replay },
    ],
  },
];
