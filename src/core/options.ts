/**
 * The options: their meaning, defaults, units and relations. Owns: the one validation, which reports every problem at once.
 */
import { z } from "zod";
import type { ResolvedSteps, StepsOptions } from "./attempt.js";
import type { Reconcile } from "./reconcile.js";
import { IdempotencyError } from "./errors.js";
import type { IdempotencyEvent } from "./events.js";
import type { Secret } from "./fingerprint.js";
import {
  instanceShape,
  routeShape,
  shapeProblems,
  stepsShape,
  withMethods,
} from "./options-shape.js";
import type { Cache, Store } from "./ports.js";
import type { Isolation, TransactionAdapter } from "./sql-session.js";
import type { StoreHeaders } from "./stored-headers.js";

/**
 * A function of a request, for options that are kept where requests of every adapter meet: a route's own request type is known to
 * the route alone, so that parameters are compared in both directions.
 */
type OfRequest<Request, Result> = { of(request: Request): Result }["of"];

/** What a route may set for itself; {@link IdempotencyOptions} sets the same for all routes. */
export interface RouteOptions<Request = never> {
  /** Answer 400 `key_missing` where no key was sent. Default false: such a request passes through unprotected. */
  readonly required?: boolean;
  /**
   * Where the key comes from in place of the header, which is not looked at then: `(req) => req.body.id` for events that carry
   * their own. The same rules hold, or 400 `key_invalid`; undefined is a missing key. Default: the Idempotency-Key header.
   */
  readonly key?: OfRequest<Request, string | undefined | Promise<string | undefined>>;
  /**
   * What counts of the body in place of the body itself: a JSON value, a text or bytes. Method, path and query count beside it;
   * the media type does not. It need not be parsed then. Throws `fingerprint_invalid` at a request where it gives undefined
   * or what JSON cannot show. Default: the body.
   */
  readonly fingerprint?: OfRequest<Request, unknown>;
  /**
   * Fields that may differ from try to try, named as in `differs`: `"body.sentAt"`, `"body.items[*].at"`, `"query.trace"`.
   * Default none.
   */
  readonly ignoreFields?: readonly string[];
  /**
   * What a request does while another with its key runs: answer 409 `in_progress` at once, or wait up to `waitMs` and then
   * replay. Default `"reject"`.
   */
  readonly concurrent?: "reject" | { readonly waitMs: number };
  /**
   * Longest wait, in ms, that a client may ask for with `Prefer: wait=seconds` (RFC 7240); where `concurrent` allows more, that
   * is the limit. The client's wish comes before `concurrent`, also where it is shorter. Default 30 s; 0: such wishes are not
   * heard.
   */
  readonly preferWaitMs?: number;
  /**
   * `"store"`: a response of 500 and above is stored and replayed, since what happened is unknown. `"release"`: the handler's
   * author says that nothing happened, and the key can be used again. Default `"store"`.
   */
  readonly serverErrors?: "store" | "release";
  /** Statuses with which the handler says that nothing happened; they release the key. Default none. */
  readonly releaseOn?: readonly number[];
  /**
   * What a retry does after the process died in the handler of a plain route: answer 409 `outcome_unknown`, or run it again
   * (then at least once). Stored with the claim. Default `"unknown"`.
   */
  readonly afterCrash?: "unknown" | "rerun";
  /**
   * Asked when the outcome of a plain route's request is unknown: its process is gone or frozen. Answers the response that
   * the work would have had, `"not_executed"` when it is certain that it was not and will not be done (the retry then runs),
   * or `"unknown"`. Default: unknown.
   */
  readonly reconcile?: Reconcile;
  /** Keys that look like counters or clock times: an event, or 400 `key_weak`, or nothing. Default `"warn"`. */
  readonly weakKeys?: "warn" | "reject" | "allow";
  /** Largest response body that is stored, in bytes. Default 1 MiB. */
  readonly maxResponseBytes?: number;
  /**
   * Which of the headers that the handler sets are stored and replayed: `{ only }` these, or all `{ except }` these. What says
   * how the body is read is always stored; cookies, hop-by-hop headers and the date never are. Default: all but those and what
   * tells of one exchange only, such as request ids and rate limits.
   */
  readonly storeHeaders?: StoreHeaders;
  /**
   * The responses of this plain route are streams: what is written passes at once, nothing of it is stored, and the key then
   * answers 409 `response_not_stored`. Server-sent events are streams without it. A response that the handler ends with its
   * first call is stored as any other. Default false.
   */
  readonly stream?: boolean;
  /**
   * How long the client of a plain route waits for its handler, in ms; then it gets 504 `handler_timeout`. The handler goes on,
   * and its response is stored for the retry. Default 0: no limit.
   */
  readonly handlerTimeoutMs?: number;
  /** How long a response can be replayed, in ms from its completion. Default 24 h. */
  readonly replayWindowMs?: number;
  /** How long a key is remembered, in ms from completion; not shorter than the replay window. Default 30 days. */
  readonly dedupeWindowMs?: number;
  /** Longest run of a plain handler, in ms; then its lease is renewed no more, the outcome counts as unknown, and `close` does not wait. Default 15 min. */
  readonly maxRunMs?: number;
  /** Longest transaction of a transaction route, in ms; Postgres ends it then. Default 30 s. */
  readonly transactionTimeoutMs?: number;
  /**
   * Isolation level of the transactions of transaction routes. Above the default, Postgres refuses what it cannot order, and
   * the handler is run again (`transactionRetries`). Default `"read committed"`.
   */
  readonly isolation?: Isolation;
  /**
   * How often the handler of a transaction route is run again, in a new transaction, after a serialization failure (40001) or a
   * deadlock (40P01); then the answer is 503 `transaction_conflict`. Nothing was written or sent by the runs before. Default
   * 3; 0 never.
   */
  readonly transactionRetries?: number;
}

/** What only a transaction route may set. */
export interface TransactionRouteOptions<Tx, Request = never> extends RouteOptions<Request> {
  /**
   * Where the transaction comes from: `prismaTransactions(prisma)`, `drizzleTransactions(db)`, `knexTransactions(knex)`,
   * `kyselyTransactions(db)`, `typeormTransactions(dataSource)`, on the database of the store. The handler gets that library's
   * transaction as `tx`. Default: the store's own pool, and `tx` is a `pg.PoolClient`.
   */
  readonly using?: TransactionAdapter<Tx>;
}

/** Options of {@link createIdempotency}. */
export interface IdempotencyOptions<Request> extends RouteOptions<Request> {
  /** Where keys live: `postgresStore({ pool })`, or `memoryStore()` in tests. Required. */
  readonly store: Store;
  /** A faster place in front of the store: `redisCache({ client })`. Losing it costs speed and never correctness. */
  readonly cache?: Cache;
  /**
   * Completed responses that this process remembers, so that a replay needs no round trip: those that were replayed once, and while
   * an eighth or more of its claims are retries all that it stores. At most `maxBytes` of memory (default 32 MiB), each for at most
   * `maxAgeMs` (default 30 s), which is also how long a response that was erased by another process can still be replayed
   * here. False for none.
   */
  readonly nearCache?: false | { readonly maxBytes?: number; readonly maxAgeMs?: number };
  /**
   * Whose key it is: tenant and environment, from the authenticated request, never the route. Required; a string of 1 to 255
   * characters. `"global"` for an API with one tenant.
   */
  readonly scope: "global" | ((request: Request) => string | Promise<string>);
  /**
   * Secret of the fingerprints (HMAC-SHA-256); without one they are plain SHA-256. An array rotates: the first makes new
   * fingerprints, the others still compare; keep each through the dedupe window.
   */
  readonly secret?: string | Secret | readonly Secret[];
  /** The wire: RFC 9457 problem documents, or Stripe's envelope and statuses. Default `"ietf"`. */
  readonly dialect?: "ietf" | "stripe";
  /** Methods that take a key; all others ignore the header. Default POST and PATCH. */
  readonly methods?: readonly string[];
  /** How long a claim is believed without a heartbeat, in ms, by the store's clock. Default 30 s. */
  readonly leaseMs?: number;
  /** How often running claims are renewed, in ms; less than half of the lease. Default a third of it. */
  readonly heartbeatMs?: number;
  /** How long a request waits for the store's answer to its claim before 503 `store_unavailable`, in ms. Default 5 s. */
  readonly claimTimeoutMs?: number;
  /** How long a response is held for the store before it leaves with `Idempotency-Stored: false`, in ms. Default 10 s. */
  readonly completeTimeoutMs?: number;
  /** The request's id, for `Original-Request`. Default: `req.id` or the X-Request-Id header where they are there, else a new one. */
  readonly requestId?: (request: Request) => string;
  /**
   * Whether this process takes part in the background work: the completer of abandoned steps requests and the reaper, of
   * which one in all processes is at work at a time. Default true.
   */
  readonly workers?: boolean;
  /**
   * The kill switch, asked at every request: while it says true, keys are read and validated and protect nothing. Every retry
   * runs its handler again; nothing is claimed, stored or replayed, and stored responses are not looked at. Transaction routes
   * still get a transaction, without a key. Steps routes are not switched: they need the store. Responses carry
   * `Idempotency-Stored: false`, each request is told by an `unprotected` event, and the process warns once. For an incident
   * in which answering without protection is better than not answering. Default false.
   */
  readonly dangerouslyRunWithoutStore?: boolean | (() => boolean);
  /** Observers. They get no key, body or credential; what they throw is dropped. */
  readonly hooks?: { readonly onEvent?: (event: IdempotencyEvent) => void };
}

/** Route options with every default in place. */
export type ResolvedRoute = {
  readonly [Name in Exclude<keyof RouteOptions, "key" | "fingerprint">]-?: NonNullable<
    RouteOptions[Name]
  >;
} & {
  readonly key: RouteOptions<unknown>["key"] | undefined;
  readonly fingerprint: RouteOptions<unknown>["fingerprint"] | undefined;
};

/** Instance options with every default in place. */
export interface ResolvedOptions<Request> {
  readonly store: Store;
  readonly cache: Cache | undefined;
  readonly nearCache: { readonly maxBytes: number; readonly maxAgeMs: number } | undefined;
  readonly scope: (request: Request) => string | Promise<string>;
  readonly secrets: readonly Secret[];
  readonly dialect: "ietf" | "stripe";
  readonly methods: ReadonlySet<string>;
  readonly leaseMs: number;
  readonly heartbeatMs: number;
  readonly claimTimeoutMs: number;
  readonly completeTimeoutMs: number;
  readonly requestId: ((request: Request) => string) | undefined;
  readonly workers: boolean;
  /** The kill switch as it is now. */
  readonly isUnprotected: () => boolean;
  readonly onEvent: (event: IdempotencyEvent) => void;
  readonly route: ResolvedRoute;
}

const second = 1_000;
const minute = 60 * second;
const day = 24 * 60 * minute;

const nearCacheDefaults = { maxBytes: 32 * 1024 * 1024, maxAgeMs: 30 * second };

const routeDefaults: ResolvedRoute = {
  required: false,
  key: undefined,
  fingerprint: undefined,
  ignoreFields: [],
  concurrent: "reject",
  preferWaitMs: 30 * second,
  serverErrors: "store",
  releaseOn: [],
  afterCrash: "unknown",
  reconcile: () => "unknown",
  weakKeys: "warn",
  maxResponseBytes: 1024 * 1024,
  storeHeaders: {},
  stream: false,
  handlerTimeoutMs: 0,
  replayWindowMs: day,
  dedupeWindowMs: 30 * day,
  maxRunMs: 15 * minute,
  transactionTimeoutMs: 30 * second,
  isolation: "read committed",
  transactionRetries: 3,
};

/**
 * Validates and fills in the options of an instance.
 *
 * @throws `options_invalid` that lists every problem: wrong values, unknown names and broken relations.
 */
export function resolveOptions<Request>(
  given: IdempotencyOptions<Request>,
): ResolvedOptions<Request> {
  const leaseMs = given?.leaseMs ?? 30 * second;
  const heartbeatMs = given?.heartbeatMs ?? Math.max(1, Math.floor(leaseMs / 3));
  const problems = [
    ...shapeProblems(instanceShape, given),
    ...routeRelations(pickRoute(routeDefaults, given ?? {})),
  ];
  if (leaseMs <= 2 * heartbeatMs)
    problems.push(`leaseMs (${leaseMs}) must be more than twice heartbeatMs (${heartbeatMs})`);
  throwIfAny("createIdempotency", problems);
  const { scope } = given;
  return {
    store: given.store,
    cache: given.cache,
    nearCache: given.nearCache === false ? undefined : { ...nearCacheDefaults, ...given.nearCache },
    scope: scope === "global" ? () => "global" : scope,
    secrets: toSecrets(given.secret),
    dialect: given.dialect ?? "ietf",
    methods: new Set(given.methods ?? ["POST", "PATCH"]),
    leaseMs,
    heartbeatMs,
    claimTimeoutMs: given.claimTimeoutMs ?? 5 * second,
    completeTimeoutMs: given.completeTimeoutMs ?? 10 * second,
    requestId: given.requestId,
    workers: given.workers ?? true,
    isUnprotected: toSwitch(given.dangerouslyRunWithoutStore),
    onEvent: quiet(given.hooks?.onEvent),
    route: pickRoute(routeDefaults, given),
  };
}

/** Validates a route's options and lays them over the instance's. */
export function resolveRoute(base: ResolvedRoute, given: RouteOptions = {}): ResolvedRoute {
  const problems = shapeProblems(z.strictObject(routeShape), given);
  const route = pickRoute(base, given);
  throwIfAny("this route", problems.length > 0 ? problems : routeRelations(route));
  return route;
}

/** Validates the options of a transaction route. */
export function resolveTransactionRoute<Tx>(
  base: ResolvedRoute,
  given: TransactionRouteOptions<Tx>,
): { readonly route: ResolvedRoute; readonly using: TransactionAdapter<Tx> | undefined } {
  const using = withMethods("source of transactions", ["open"], "drizzleTransactions(db)");
  const shape = z.strictObject({ ...routeShape, using: using.optional() });
  const problems = shapeProblems(shape, given);
  const route = pickRoute(base, given);
  throwIfAny("this transaction route", problems.length > 0 ? problems : wholeRelations(route));
  return { route, using: given.using };
}

const stepsDefaults: ResolvedSteps = {
  keepHeaders: [],
  stepTimeoutMs: 30 * second,
  maxAttempts: 10,
};

/** Validates the options of a steps route. */
export function resolveSteps(
  base: ResolvedRoute,
  given: RouteOptions & StepsOptions = {},
): { readonly route: ResolvedRoute; readonly steps: ResolvedSteps } {
  const problems = shapeProblems(z.strictObject({ ...routeShape, ...stepsShape }), given);
  const route = pickRoute(base, given);
  throwIfAny("this steps route", problems.length > 0 ? problems : wholeRelations(route));
  const { keepHeaders, stepTimeoutMs, maxAttempts } = { ...stepsDefaults, ...given };
  const lowerCase = keepHeaders.map((name) => name.toLowerCase());
  return { route, steps: { keepHeaders: lowerCase, stepTimeoutMs, maxAttempts } };
}

function pickRoute(base: ResolvedRoute, given: RouteOptions): ResolvedRoute {
  const names = Object.keys(routeDefaults) as (keyof ResolvedRoute)[];
  const chosen = names
    .filter((name) => given[name] !== undefined)
    .map((name) => [name, given[name]] as const);
  return { ...base, ...(Object.fromEntries(chosen) as Partial<ResolvedRoute>) };
}

function routeRelations(route: ResolvedRoute): string[] {
  const { replayWindowMs, dedupeWindowMs } = route;
  return dedupeWindowMs < replayWindowMs
    ? [
        `dedupeWindowMs (${dedupeWindowMs}) must not be shorter than replayWindowMs (${replayWindowMs})`,
      ]
    : [];
}

/** Of routes whose response is committed with their work, and so is never sent in parts. */
function wholeRelations(route: ResolvedRoute): string[] {
  const streams = "stream: only a plain route can stream; this one holds its response until commit";
  return [...routeRelations(route), ...(route.stream ? [streams] : [])];
}

function throwIfAny(where: string, problems: readonly string[]): void {
  if (problems.length === 0) return;
  throw new IdempotencyError("options_invalid", {
    detail: `Options of ${where}: ${problems.join("; ")}.`,
  });
}

function toSecrets(secret: IdempotencyOptions<never>["secret"]): readonly Secret[] {
  if (secret === undefined) return [];
  if (typeof secret === "string") return [{ id: "1", value: secret }];
  return "value" in secret ? [secret] : secret;
}

/** Only true is on: the text "false" of an environment variable must not switch protection off. */
function toSwitch(given: unknown): () => boolean {
  return typeof given === "function"
    ? () => (given as () => unknown)() === true
    : () => given === true;
}

/** An observer must not be able to change what happens. */
function quiet(
  observe: ((event: IdempotencyEvent) => void) | undefined,
): (event: IdempotencyEvent) => void {
  if (observe === undefined) return () => undefined;
  return (event) => {
    try {
      observe(event);
    } catch {
      // Nothing to tell it to.
    }
  };
}
