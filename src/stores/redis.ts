/**
 * The Redis cache: fast answers in front of the store that decides. Owns: one script a verb, the keys that share one call of it
 * (on a Redis Cluster each has its own), the time that asking may cost, and when to stop asking. Must never be waited for
 * longer than its budget, and never prove that a key is free, abandoned or mismatched.
 */
import { createHash } from "node:crypto";
import type { Cluster, Redis } from "ioredis";
import { systemClock } from "../core/clock.js";
import type { Clock } from "../core/clock.js";
import { nameOf } from "../core/key.js";
import type { Cache, CacheAnswer } from "../core/ports.js";
import type { KeyRef } from "../core/record.js";
import { lua } from "../generated/scripts.js";
import { createBatcher } from "./batcher.js";
import { createCircuitBreaker } from "./circuit-breaker.js";
import type { CircuitState } from "./circuit-breaker.js";
import { createChannelHints } from "./redis-hints.js";
import {
  completedStart,
  entryName,
  markerStart,
  packCompleted,
  unpackCompleted,
} from "./redis-entry.js";

export type { Cache, CacheAnswer, CacheEntry } from "../core/ports.js";

export interface RedisCacheOptions {
  /**
   * An ioredis `Redis` or `Cluster`. The cache uses it and never ends it; while requests wait for keys that run in other
   * processes, it opens a duplicate of a `Redis` to be told of their end.
   */
  readonly client: Redis | Cluster;
  /** What every name in Redis begins with. Default `oncekey:`. */
  readonly prefix?: string;
  /** Milliseconds that a request may wait for Redis before the store is asked. Default 50. */
  readonly budgetMs?: number;
  /** Told of every failure and time-out, for a log. What it throws is ignored. */
  readonly onError?: (error: Error) => void;
  /** For tests. */
  readonly clock?: Pick<Clock, "monotonicMs">;
}

/** `offline`: the client has no connection, so nothing is sent. The others are the circuit's. */
export type RedisCacheState = CircuitState | "offline";

export interface RedisCache extends Cache {
  /** Whether Redis is being asked just now, for a metric. */
  state(): RedisCacheState;
}

/** A replay takes well under a millisecond; fifty cover a slow neighbour in Redis and still pass unnoticed in a request. */
const defaultBudgetMs = 50;
/** A hung Redis costs a sequence of requests at most this many budgets, and then nothing. */
const failuresToOpen = 5;
/** The price of a probe is one PING that nobody waits for, so it may be frequent. */
const pauseMs = 1_000;
/** DESIGN, section 8, rule 9: long enough for the usual handler, short enough that a stale marker is a hiccup. */
const markerMs = 2_000;
/** Markers of the rest expire, which costs their retries a look at the store. */
const maxRenewed = 1_000;
/**
 * A write of a forgotten record can be under way for as long as TCP retransmits (some 15 minutes by default on Linux) and
 * as long as the writing process was frozen before it sent; see `maxKeepAgeMs`. Within an hour both are over.
 */
const tombstoneMs = 3_600_000;
/** What was read longer ago than this is not written any more, so that no write outlives a tombstone. */
const maxKeepAgeMs = 1_800_000;
/** Erasure is rare and must be certain, so it may take longer than a look. */
const forgetTimeoutMs = 1_000;

/** Redis does one thing at a time: longer calls would make the others wait. */
const maxTogether = 64;
/** A larger entry has a call to itself, so that no call moves more than a megabyte into Redis. */
const maxBytesTogether = 16_384;

const noscript = /^NOSCRIPT/;
const absent: CacheAnswer = { kind: "absent" };

/**
 * ioredis has these and does not declare them. Not `callBuffer`, which it declares: under `enableAutoPipelining` that one
 * drops the name of its command.
 */
interface BufferCommands {
  evalshaBuffer(sha: string, ...rest: ScriptArguments): Promise<unknown>;
  evalBuffer(text: string, ...rest: ScriptArguments): Promise<unknown>;
}

type Values = readonly (string | Buffer | number)[];
type ScriptArguments = readonly [keys: number, ...keysAndValues: Values];

interface Look {
  readonly ref: KeyRef;
  readonly claim: { readonly claimId: string; readonly fingerprint: string };
  readonly epoch: string;
}

interface Keep {
  readonly ref: KeyRef;
  readonly packed: Buffer;
  readonly leftMs: number;
}

interface Script {
  readonly text: string;
  readonly sha: string;
}

const scripts = {
  look: loadScript(lua["look-n"]),
  unmark: loadScript(lua["unmark-1"]),
  renew: loadScript(lua["renew-1"]),
  keep: loadScript(lua["keep-n"]),
  forget: loadScript(lua["forget-1"]),
};

/**
 * A cache on Redis 6.2 or later. Losing it at any moment (flush, eviction, failover, hang) costs speed and changes no
 * answer: whatever it does not know in time, the store is asked.
 */
export function redisCache(options: RedisCacheOptions): RedisCache {
  const { client } = options;
  const commands = client as unknown as BufferCommands;
  const prefix = options.prefix ?? "oncekey:";
  const budgetMs = options.budgetMs ?? defaultBudgetMs;
  const { monotonicMs } = options.clock ?? systemClock;
  const hints = createChannelHints(client, prefix);
  const breaker = createCircuitBreaker({ failuresToOpen, pauseMs, monotonicMs });

  const tell = (error: unknown): void => {
    try {
      options.onError?.(
        error instanceof Error ? error : new Error("Redis failed", { cause: error }),
      );
    } catch {
      // A log that throws must not take requests with it.
    }
  };

  /** Runs a script on its keys. Only a server that does not know the script is asked twice. */
  const run = async (script: Script, refs: readonly KeyRef[], values: Values): Promise<unknown> => {
    const names = refs.map((ref) => entryName(prefix, ref));
    const rest = [names.length, ...names, ...values] as const;
    try {
      return await commands.evalshaBuffer(script.sha, ...rest);
    } catch (error) {
      if (!(error instanceof Error && noscript.test(error.message))) throw error;
      return commands.evalBuffer(script.text, ...rest);
    }
  };

  /** True when a command would be sent now. ioredis queues commands while it has no connection, and they would pile up. */
  const isOnline = (): boolean => {
    if (client.status === "ready") return true;
    // A client made with lazyConnect waits for its first command, which would never come from here.
    if (client.status === "wait") client.connect().catch(tell);
    return false;
  };

  /** Does the work within the budget, or answers `otherwise`. Never rejects. */
  const attempt = async <T>(work: () => Promise<T>, otherwise: T): Promise<T> => {
    if (!isOnline()) return otherwise;
    const pass = breaker.enter();
    if (pass === undefined) return otherwise;
    // No request pays for the probe: this one does without Redis, and a PING goes out beside it.
    const sent = pass.probe ? client.ping() : work();
    const outcome = within<unknown>(sent, budgetMs).then(
      (answer) => {
        breaker.report(pass, "ok");
        return answer;
      },
      (error: unknown) => {
        breaker.report(pass, "failed");
        tell(error);
        return otherwise;
      },
    );
    return pass.probe ? otherwise : ((await outcome) as T);
  };

  /** What comes in one turn of the event loop travels together, and nothing waits for what is under way. */
  const together = {
    nameOf: ({ ref }: { readonly ref: KeyRef }) => nameOf(ref),
    isPoisoned: () => false,
    maxBatch: client.isCluster ? 1 : maxTogether,
    maxInFlight: Infinity,
    maxWaiting: Infinity,
  };
  const lookTogether = createBatcher<Look, unknown>({
    ...together,
    send: (looks) => {
      const values = looks.flatMap(({ claim, epoch }) => [
        completedStart(epoch),
        claim.claimId,
        claim.fingerprint,
      ]);
      const refs = looks.map(({ ref }) => ref);
      return attempt(
        () => run(scripts.look, refs, [markerMs, ...values]) as Promise<unknown[]>,
        [],
      );
    },
  });
  const keeper = (maxBatch: number): ((keep: Keep) => Promise<unknown>) =>
    createBatcher<Keep, unknown>({
      ...together,
      maxBatch,
      send: (keeps) => {
        const values = keeps.flatMap(({ packed, leftMs, ref }) => [
          packed,
          leftMs,
          hints.channelOf(ref),
        ]);
        const refs = keeps.map(({ ref }) => ref);
        return attempt(() => run(scripts.keep, refs, values) as Promise<unknown[]>, []);
      },
    });
  const keepTogether = keeper(together.maxBatch);
  const keepAlone = keeper(1);

  return {
    state: () => (client.status === "ready" ? breaker.state() : "offline"),
    look: async (ref, claim, epoch) => {
      const answer = await lookTogether({ ref, claim, epoch });
      if (!Array.isArray(answer)) return isWord(answer, "running") ? { kind: "running" } : absent;
      const [value, leftMs] = answer as readonly unknown[];
      // No end (-1): somebody took its time limit away. An end in this very millisecond (0) is over.
      if (!Buffer.isBuffer(value) || !(Number(leftMs) > 0)) return absent;
      try {
        return { kind: "completed", ...unpackCompleted(ref, epoch, value, Number(leftMs)) };
      } catch (error) {
        tell(error);
        return absent;
      }
    },
    unmark: async (ref, claimId, why) => {
      const values = [markerStart(claimId), why === "ended" ? hints.channelOf(ref) : ""];
      await attempt(() => run(scripts.unmark, [ref], values), undefined);
    },
    renew: async (claims) => {
      if (claims.length === 0) return;
      const send = (claim: (typeof claims)[number]): Promise<unknown> =>
        run(scripts.renew, [claim], [markerStart(claim.claimId) + claim.fingerprint, markerMs]);
      await attempt(() => Promise.all(claims.slice(0, maxRenewed).map(send)), undefined);
    },
    keep: async (entry) => {
      const packed = packCompleted(entry);
      const ageMs = monotonicMs() - entry.readAtMs;
      const leftMs = Math.floor(entry.replayLeftMs - ageMs);
      if (packed === undefined || leftMs <= 0 || ageMs > maxKeepAgeMs) return;
      const keep = packed.length > maxBytesTogether ? keepAlone : keepTogether;
      await keep({ ref: entry.record, packed, leftMs });
    },
    forget: async (ref) => {
      // Asked whatever the circuit says: silence would be taken for an erasure.
      if (!isOnline())
        throw new Error("Redis is not connected, so its copy of the response may remain");
      const answer = await within(run(scripts.forget, [ref], [tombstoneMs]), forgetTimeoutMs);
      if (!isWord(answer, "forgotten"))
        throw new Error("Redis did not confirm that the key was forgotten");
    },
    watch: (ref, onHint) => hints.watch(ref, onHint),
    close: async () => hints.close(),
  };
}

function loadScript(text: string): Script {
  // Headers stay in the files; what remains is what Redis keeps.
  const code = text.replaceAll(/^\s*--.*\n/gm, "");
  return { text: code, sha: createHash("sha1").update(code).digest("hex") };
}

function isWord(answer: unknown, word: string): boolean {
  return Buffer.isBuffer(answer) && answer.toString("latin1") === word;
}

/** Settles as the work does, or rejects after the time. Whatever the work does later is ignored. */
function within<T>(work: Promise<T>, ms: number): Promise<T> {
  return new Promise((resolve, reject) => {
    // When this process was busy, its timers fire before it has read replies that are there already. One turn later they
    // have been read, and a late timer is not taken for a slow Redis.
    const timer = setTimeout(() => {
      setImmediate(() => reject(new Error(`no answer from Redis within ${ms} ms`)));
    }, ms);
    timer.unref();
    work.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}
