/** Processes with waiters, as far as their store can tell them apart: each has an engine, pools and a Redis client of its own. */
import { randomUUID } from "node:crypto";

import { Redis } from "ioredis";
import pg from "pg";

import { systemClock } from "../../src/core/clock.js";
import { Engine } from "../../src/core/engine.js";
import { createFingerprinter } from "../../src/core/fingerprint.js";
import { resolveOptions, resolveRoute } from "../../src/core/options.js";
import type { Store } from "../../src/core/ports.js";
import type { Begun, KeyedRequest, LookPauses, Outcome } from "../../src/core/request.js";
import type { StoredResponse } from "../../src/core/record.js";
import { memoryStore } from "../../src/stores/memory.js";
import { postgresStore } from "../../src/stores/postgres.js";
import { redisCache } from "../../src/stores/redis.js";
import { tiered } from "../../src/stores/tiered.js";
import { waitFor } from "../support/wait-for.js";

const hourMs = 3_600_000;
/** Nobody looks by itself within a test: only a hint can have woken a waiter. */
export const noPolling: LookPauses = {
  firstMs: hourMs,
  longestMs: hourMs,
  watchedFirstMs: hourMs,
  watchedLongestMs: hourMs,
};

export const created: StoredResponse = {
  status: 201,
  headers: [["Content-Type", "application/json"]],
  body: Buffer.from('{"id":"ch_1"}'),
};

export interface Process {
  readonly engine: Engine;
  readonly store: Store;
  /** Claims that the store has answered. */
  looks(): number;
  close(): Promise<void>;
}

export interface ProcessOptions {
  readonly databaseUrl: string;
  readonly redis?: { readonly url: string; readonly prefix: string } | undefined;
  readonly pauses?: LookPauses;
}

export async function openProcess(options: ProcessOptions): Promise<Process> {
  const pool = new pg.Pool({ connectionString: options.databaseUrl, max: 10 });
  pool.on("error", () => {});
  const postgres = postgresStore({ pool });
  const client =
    options.redis === undefined ? undefined : new Redis(options.redis.url, { lazyConnect: true });
  client?.on("error", () => {});
  await client?.connect();
  const prefix = options.redis?.prefix ?? "";
  const inner =
    client === undefined
      ? postgres
      : tiered(postgres, {
          cache: redisCache({ client, prefix, budgetMs: 2_000 }),
          near: undefined,
          clock: systemClock,
        });
  let looks = 0;
  const store = counting(inner, () => (looks += 1));
  // The epoch is read with the first connection, and without it Redis is not asked.
  await store.find({ scope: "nobody", key: "nothing" });
  const engine = new Engine({
    store,
    clock: systemClock,
    leaseMs: 30_000,
    heartbeatMs: 10_000,
    claimTimeoutMs: 5_000,
    completeTimeoutMs: 10_000,
    onEvent: () => undefined,
    ...(options.pauses === undefined ? {} : { lookPauses: options.pauses }),
  });
  return {
    engine,
    store,
    looks: () => looks,
    close: async () => {
      await engine.close(1_000);
      await pool.end();
      client?.disconnect();
    },
  };
}

function counting(store: Store, onAnswer: () => void): Store {
  const { transactions } = store;
  return {
    ...store,
    claim: (request) => store.claim(request).finally(onAnswer),
    ...(transactions && {
      transactions: {
        ...transactions,
        claim: (request, settings) => transactions.claim(request, settings).finally(onAnswer),
      },
    }),
  };
}

/** Resolves once the waiter has looked again behind the watch: from now on only a hint makes it look. */
export async function untilItHasLooked(process: Process): Promise<void> {
  await waitFor(() => process.looks() >= 2, { what: "the look behind the watch" });
}

const fingerprintOf = createFingerprinter([]);
const route = resolveRoute(
  resolveOptions({ store: memoryStore(), scope: "global", methods: ["POST"] }).route,
);

export const newKey = (): string => randomUUID();

/** One route in all processes, as in one app. */
export function requestFor(key: string, given: Partial<KeyedRequest> = {}): KeyedRequest {
  return {
    scope: "acme",
    key,
    fingerprint: fingerprintOf({
      method: "POST",
      url: "/charges",
      contentType: "application/json",
      body: { kind: "value", value: { amount: 1 } },
    }),
    method: "POST",
    path: "/charges",
    requestId: `req_${randomUUID()}`,
    route,
    waitMs: 20_000,
    signal: new AbortController().signal,
    ...given,
  };
}

export function otherFingerprint(amount: number): KeyedRequest["fingerprint"] {
  return fingerprintOf({
    method: "POST",
    url: "/charges",
    contentType: "application/json",
    body: { kind: "value", value: { amount } },
  });
}

/** A held key, however its route is written. */
export interface Held {
  complete(): Promise<unknown>;
  release(): Promise<unknown>;
}

export type Kind = "plain" | "transaction";

export interface Attempt {
  readonly held: Held | undefined;
  readonly outcome: Outcome | undefined;
}

export async function begin(
  { engine }: Process,
  kind: Kind,
  request: KeyedRequest,
): Promise<Attempt> {
  if (kind === "plain") {
    const begun = await engine.begin(request);
    return answerOf(begun, (run) => ({
      complete: () => run.complete(created),
      release: () => run.release(),
    }));
  }
  return answerOf(await engine.beginTransaction(request, undefined, 0), (run) => ({
    complete: () => run.commit(created),
    release: () => run.rollback(),
  }));
}

function answerOf<Run>(begun: Begun<Run>, hold: (run: Run) => Held): Attempt {
  return begun.kind === "run"
    ? { held: hold(begun.run), outcome: undefined }
    : { held: undefined, outcome: begun };
}

export async function beginHeld(
  process: Process,
  kind: Kind,
  request: KeyedRequest,
): Promise<Held> {
  const { held } = await begin(process, kind, request);
  if (held === undefined) throw new Error("the key was not free");
  return held;
}

/** The body of a replay, or the code of a refusal. */
export function told({ held, outcome }: Attempt): string {
  if (held !== undefined) return "run";
  if (outcome?.kind === "replay") return Buffer.from(outcome.response.body).toString();
  return outcome?.error.code ?? "";
}

/** Resolves once Postgres shows as many watched keys. */
export async function untilWatchedInPostgres(pool: pg.Pool, keys: number): Promise<void> {
  await waitFor(async () => (await watchingPids(pool)).length === keys, {
    what: `${keys} watched keys in Postgres`,
  });
}

/** The sessions that hold the shared locks of waiters. */
export async function watchingPids(pool: pg.Pool): Promise<number[]> {
  const { rows } = await pool.query<{ pid: number }>(
    `SELECT l.pid FROM pg_locks l JOIN pg_database d ON d.oid = l.database
      WHERE l.locktype = 'advisory' AND l.mode = 'ShareLock' AND l.granted AND d.datname = current_database()`,
  );
  return rows.map(({ pid }) => pid);
}

/** Resolves once Redis shows as many subscribers of a prefix's channels. */
export async function untilWatchedInRedis(
  client: Redis,
  prefix: string,
  watchers: number,
): Promise<void> {
  await waitFor(
    async () => {
      const channels = (await client.pubsub("CHANNELS", `${prefix}*`)) as string[];
      const counts = await Promise.all(channels.map((channel) => client.pubsub("NUMSUB", channel)));
      return counts.reduce((sum, [, count]) => sum + Number(count), 0) === watchers;
    },
    { what: `${watchers} subscribers in Redis` },
  );
}
