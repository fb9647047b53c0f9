/**
 * The way of a keyed request: claim, run, complete. Owns: what is begun and ended, and what becomes of claims whose reply was
 * lost. Adapters translate; stores store; `decide` decides.
 */
import type { Awaitable } from "./awaitable.js";
import { Claiming } from "./claiming.js";
import type { Claimed, Claimer } from "./claiming.js";
import { IdempotencyError, isIdempotencyError } from "./errors.js";
import { ClaimedPlainRun } from "./plain-run.js";
import type { PlainRun, PlainRunContext } from "./plain-run.js";
import { createStepsRun } from "./steps-run.js";
import type { StepsRoute, StepsRun } from "./steps-run.js";
import type { ResolvedRoute } from "./options.js";
import type { OpenTransaction, Store, TransactionSettings } from "./ports.js";
import type { Claim, ClaimRequest, Guarantee, KeyRecord } from "./record.js";
import type { Begun, EngineOptions, KeyedRequest, Outcome } from "./request.js";
import { attemptFor } from "./retry.js";
import { createRunRegister } from "./runs.js";
import type { RunRegister } from "./runs.js";
import type { TransactionAdapter } from "./sql-session.js";
import { createTransactionRun } from "./transaction-run.js";
import type { TransactionRun } from "./transaction-run.js";
import { isFree } from "./unused-claim.js";

export class Engine {
  readonly #options: EngineOptions;
  readonly #store: Store;
  readonly #register: RunRegister;
  readonly #claiming: Claiming;
  /** What goes on behind answers that have left: completions and releases while the store is away. */
  readonly #background = new Set<Promise<void>>();
  readonly #closing = new AbortController();
  readonly #runContext: PlainRunContext;
  readonly #plain: Claimer<object>;
  #isClosing = false;

  constructor(options: EngineOptions) {
    this.#options = options;
    this.#store = options.store;
    this.#register = createRunRegister({
      ...options,
      onEnded: (ref) => this.#claiming.ended(ref),
    });
    this.#claiming = new Claiming(options, this.#register);
    this.#plain = plainClaimer(options.store);
    this.#runContext = {
      ...options,
      inBackground: (work) => this.#inBackground(work),
      isClosing: () => this.#isClosing,
    };
  }

  /** Claims the key of a plain route, or says why its handler must not run; at once where that is known. Never rejects. */
  begin(request: KeyedRequest): Awaitable<Begun<PlainRun>> {
    return this.#claiming.known(request) ?? this.#register.expect(this.#claimPlain(request));
  }

  async #claimPlain(request: KeyedRequest): Promise<Begun<PlainRun>> {
    const guarantee = request.route.afterCrash === "rerun" ? "rerun" : "at_most_once";
    const claimRequest = this.#claimRequest(request, guarantee);
    const startedMs = this.#options.clock.monotonicMs();
    const result = await this.#claiming.claim(request, claimRequest, this.#plain);
    if (result.kind !== "claimed") {
      if (isUnanswered(result)) this.#inBackground(this.#giveBackUnused(claimRequest));
      return result;
    }
    const { claim } = result;
    const end = this.#hold(request, claim, guarantee, startedMs);
    const input = { claim, guarantee, request, startedMs, end } as const;
    return { kind: "run", run: new ClaimedPlainRun(this.#runContext, input) };
  }

  /** Claims the key of a steps route, or goes on with a request that was abandoned under it. Never rejects. */
  beginSteps(request: KeyedRequest, route: StepsRoute, body: string): Promise<Begun<StepsRun>> {
    return this.#register.expect(this.#claimSteps(request, route, body));
  }

  async #claimSteps(
    request: KeyedRequest,
    route: StepsRoute,
    body: string,
  ): Promise<Begun<StepsRun>> {
    const known = this.#claiming.known(request);
    if (known !== undefined) return known;
    const steps = { handler: route.handler, request: body };
    const claimRequest = { ...this.#claimRequest(request, "steps"), steps };
    const startedMs = this.#options.clock.monotonicMs();
    const result = await this.#claiming.claim(request, claimRequest, this.#plain);
    if (result.kind !== "claimed") {
      if (isUnanswered(result)) this.#inBackground(this.#giveBackUnused(claimRequest));
      return result;
    }
    return { kind: "run", run: this.#stepsRun(request, result.claim, route, startedMs) };
  }

  /** Claims unfinished requests of these routes that nobody works on; each is to be run. */
  async claimDue(
    routes: ReadonlyMap<string, StepsRoute>,
    most: number,
  ): Promise<readonly StepsRun[]> {
    const { steps } = this.#store;
    if (steps === undefined || this.#isClosing || routes.size === 0 || most <= 0) return [];
    const { clock, leaseMs } = this.#options;
    const claimIds = Array.from({ length: most }, () => clock.uuid());
    const startedMs = clock.monotonicMs();
    const due = await steps.claimDue([...routes.keys()], claimIds, leaseMs);
    return due.flatMap((record) => {
      const route = routes.get(record.steps?.handler ?? "");
      return route === undefined
        ? []
        : [this.#stepsRun(toKeyed(record, route), record, route, startedMs)];
    });
  }

  /**
   * Claims the key of a transaction route inside a new transaction. `triesBefore`: how often this request has run its handler
   * and was rolled back for the sake of another transaction. Never rejects.
   */
  beginTransaction(
    request: KeyedRequest,
    using: TransactionAdapter<unknown> | undefined,
    triesBefore: number,
  ): Promise<Begun<TransactionRun>> {
    return this.#register.expect(this.#claimTransaction(request, using, triesBefore));
  }

  async #claimTransaction(
    request: KeyedRequest,
    using: TransactionAdapter<unknown> | undefined,
    triesBefore: number,
  ): Promise<Begun<TransactionRun>> {
    const known = this.#claiming.known(request);
    if (known !== undefined) return known;
    const claimRequest = this.#claimRequest(request, "transaction");
    const startedMs = this.#options.clock.monotonicMs();
    const claimer = transactionClaimer(this.#store, settingsFor(request.route, using));
    const result = await this.#claiming.claim(request, claimRequest, claimer);
    if (result.kind !== "claimed") return result;
    const { open } = result;
    // A try that was rolled back has left no trace to count.
    const { scope, key, claimId, token, attempt } = result.claim;
    const claim = { scope, key, claimId, token, attempt: attempt + triesBefore };
    const end = this.#hold(request, claim, "transaction", startedMs);
    return {
      kind: "run",
      run: createTransactionRun(this.#options, { claim, open, request, startedMs, end }),
    };
  }

  /** A transaction for a request without a key. Rejects with `store_unavailable`. */
  async openTransaction(
    route: ResolvedRoute,
    using: TransactionAdapter<unknown> | undefined,
  ): Promise<OpenTransaction> {
    try {
      return await sourceOf(this.#store).begin(settingsFor(route, using));
    } catch (cause) {
      if (isIdempotencyError(cause)) throw cause;
      this.#options.onEvent({ type: "store_error", during: "begin", error: cause });
      throw new IdempotencyError("store_unavailable", { cause, retryAfterSeconds: 1 });
    }
  }

  /** True for an error after which the same transaction can succeed when it is run again. */
  isConflict(error: unknown): boolean {
    return sourceOf(this.#store).isConflict(error);
  }

  /** Requests that wait for a running one with their key. */
  waiting(): number {
    return this.#claiming.waiting();
  }

  /** Takes no new work, waits for what runs, also for what a claim under way begins, and for what goes on behind; closes the store. */
  async close(graceMs: number): Promise<void> {
    this.#isClosing = true;
    this.#closing.abort();
    this.#claiming.close();
    const { clock } = this.#options;
    const startedMs = clock.monotonicMs();
    await this.#register.drain(graceMs);
    const leftMs = graceMs - (clock.monotonicMs() - startedMs);
    const late = new AbortController();
    await Promise.race([
      Promise.all(this.#background),
      clock.sleep(Math.max(0, leftMs), late.signal),
    ]);
    late.abort();
    this.#register.stop();
    await this.#store.close();
  }

  #stepsRun(request: KeyedRequest, holder: Claim, route: StepsRoute, startedMs: number): StepsRun {
    const { scope, key, claimId, token, attempt } = holder;
    const claim = { scope, key, claimId, token, attempt };
    const end = this.#hold(request, claim, "steps", startedMs);
    const input = { claim, guarantee: "steps", request, startedMs, end, route } as const;
    return createStepsRun(this.#runContext, input);
  }

  #claimRequest(request: KeyedRequest, guarantee: Guarantee): ClaimRequest {
    return {
      scope: request.scope,
      key: request.key,
      claimId: this.#options.clock.uuid(),
      guarantee,
      fingerprint: request.fingerprint,
      method: request.method,
      path: request.path,
      requestId: request.requestId,
      leaseMs: this.#options.leaseMs,
    };
  }

  #hold(request: KeyedRequest, claim: Claim, guarantee: Guarantee, startedMs: number): () => void {
    this.#options.onEvent({ type: "claimed", guarantee, attempt: claim.attempt });
    return this.#register.add({
      claim,
      guarantee,
      fingerprint: request.fingerprint,
      startedMs,
      maxRunMs: request.route.maxRunMs,
    });
  }

  /**
   * A claim that nobody will use is given back, also one that arrives late: it may lie in the socket of a server that hangs.
   * Looked for as long as its lease would last, and at least once.
   */
  async #giveBackUnused(claimRequest: ClaimRequest): Promise<void> {
    const { clock, leaseMs, heartbeatMs } = this.#options;
    const startedMs = clock.monotonicMs();
    for (;;) {
      const leftMs = leaseMs - (clock.monotonicMs() - startedMs);
      if (leftMs <= 0) return;
      const attempted = await attemptFor(clock, leftMs, () => this.#releaseUnused(claimRequest));
      if (attempted.kind === "gave_up" || attempted.answer === "settled") return;
      if (this.#closing.signal.aborted) return;
      await clock.sleep(heartbeatMs, this.#closing.signal);
    }
  }

  /** `settled`: the key has a record that is not this claim, so that it cannot arrive any more. */
  async #releaseUnused(claimRequest: ClaimRequest): Promise<"settled" | "absent"> {
    const found = await this.#store.find(claimRequest);
    if (found === undefined) return "absent";
    const { scope, key, claimId, token, attempt, state } = found.record;
    const isMine = claimId === claimRequest.claimId && state === "running";
    if (isMine && isFree(attempt, claimRequest.guarantee))
      await this.#store.release({ scope, key, claimId, token, attempt });
    return "settled";
  }

  #inBackground(work: Promise<void>): void {
    const tracked: Promise<void> = work.finally(() => this.#background.delete(tracked));
    this.#background.add(tracked);
  }
}

/** A request without a client: nobody waits, and only its own stored fingerprint is the same as its own. */
function toKeyed(record: KeyRecord, { route }: StepsRoute): KeyedRequest {
  const { scope, key, method, path, requestId, fieldHashes } = record;
  const fingerprint: KeyedRequest["fingerprint"] = {
    text: record.fingerprint,
    fieldHashes,
    compare: (stored) => (stored === record.fingerprint ? "same" : "other"),
    fieldHashesUnder: () => fieldHashes,
  };
  return {
    scope,
    key,
    fingerprint,
    method,
    path,
    requestId,
    route,
    waitMs: 0,
    signal: new AbortController().signal,
  };
}

/** The store gave no answer to the claim, so that it may have been made all the same. */
function isUnanswered(result: Outcome): boolean {
  return (
    result.kind === "refuse" &&
    result.error.code === "store_unavailable" &&
    result.error.cause !== undefined
  );
}

function plainClaimer(store: Store): Claimer<object> {
  return {
    claim: (request) => store.claim(request),
    takeOver: (request, observed) => store.takeOver(request, observed),
    own: ({ scope, key, claimId, token, attempt }): Claimed<object> => ({
      kind: "claimed",
      claim: { scope, key, claimId, token, attempt },
    }),
    giveBack: async ({ claim }, guarantee) => {
      if (isFree(claim.attempt, guarantee)) await store.release(claim);
    },
  };
}

function transactionClaimer(
  store: Store,
  settings: TransactionSettings,
): Claimer<{ readonly open: OpenTransaction }> {
  const source = sourceOf(store);
  return {
    claim: (request) => source.claim(request, settings),
    takeOver: (request, observed) => source.takeOver(request, observed, settings),
    // A claim whose reply was lost was never committed: its session is gone, and with it the claim.
    own: () => undefined,
    giveBack: ({ open }) => open.rollback(),
  };
}

function settingsFor(
  { transactionTimeoutMs: timeoutMs, isolation }: ResolvedRoute,
  using: TransactionAdapter<unknown> | undefined,
): TransactionSettings {
  return { timeoutMs, isolation, using };
}

function sourceOf(store: Store): NonNullable<Store["transactions"]> {
  if (store.transactions !== undefined) return store.transactions;
  throw new IdempotencyError("options_invalid", {
    detail: "Transaction routes need a store with transactions, such as postgresStore({ pool }).",
  });
}
