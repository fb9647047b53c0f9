/**
 * The way of a keyed request: claim, run, complete. Owns: what is begun and ended, and what becomes of claims whose reply was
 * lost. Adapters translate; stores store; `decide` decides.
 */
import { Claiming } from "./claiming.js";
import type { Claimed, Claimer } from "./claiming.js";
import { IdempotencyError, isIdempotencyError } from "./errors.js";
import { createPlainRun } from "./plain-run.js";
import type { PlainRun } from "./plain-run.js";
import type { OpenTransaction, Store } from "./ports.js";
import type { Claim, ClaimRequest, Guarantee } from "./record.js";
import type { Begun, EngineOptions, KeyedRequest, Outcome } from "./request.js";
import { attemptFor } from "./retry.js";
import { createRunRegister } from "./runs.js";
import type { RunRegister } from "./runs.js";
import { createTransactionRun } from "./transaction-run.js";
import type { TransactionRun } from "./transaction-run.js";

export class Engine {
  readonly #options: EngineOptions;
  readonly #store: Store;
  readonly #register: RunRegister;
  readonly #claiming: Claiming;
  /** What goes on behind answers that have left: completions and releases while the store is away. */
  readonly #background = new Set<Promise<void>>();
  #isClosing = false;

  constructor(options: EngineOptions) {
    this.#options = options;
    this.#store = options.store;
    this.#register = createRunRegister(options);
    this.#claiming = new Claiming(options, this.#register, () => this.#isClosing);
  }

  /** Claims the key of a plain route, or says why its handler must not run. Never rejects. */
  async begin(request: KeyedRequest): Promise<Begun<PlainRun>> {
    const guarantee = request.route.afterCrash === "rerun" ? "rerun" : "at_most_once";
    const claimRequest = this.#claimRequest(request, guarantee);
    const startedMs = this.#options.clock.monotonicMs();
    const result = await this.#claiming.claim(request, claimRequest, plainClaimer(this.#store));
    if (result.kind !== "claimed") {
      if (isUnanswered(result)) this.#inBackground(this.#giveBackUnused(claimRequest));
      return result;
    }
    const { claim } = result;
    const end = this.#hold(request, claim, guarantee, startedMs);
    const context = {
      ...this.#options,
      inBackground: (work: Promise<void>) => this.#inBackground(work),
      isClosing: () => this.#isClosing,
    };
    return {
      kind: "run",
      run: createPlainRun(context, { claim, guarantee, request, startedMs, end }),
    };
  }

  /** Claims the key of a transaction route inside a new transaction. Never rejects. */
  async beginTransaction(request: KeyedRequest): Promise<Begun<TransactionRun>> {
    const claimRequest = this.#claimRequest(request, "transaction");
    const startedMs = this.#options.clock.monotonicMs();
    const claimer = transactionClaimer(this.#store, request.route.transactionTimeoutMs);
    const result = await this.#claiming.claim(request, claimRequest, claimer);
    if (result.kind !== "claimed") return result;
    const { claim, open } = result;
    const end = this.#hold(request, claim, "transaction", startedMs);
    return {
      kind: "run",
      run: createTransactionRun(this.#options, { claim, open, request, startedMs, end }),
    };
  }

  /** A transaction for a request without a key. Rejects with `store_unavailable`. */
  async openTransaction(timeoutMs: number): Promise<OpenTransaction> {
    try {
      return await sourceOf(this.#store).begin({ timeoutMs });
    } catch (cause) {
      if (isIdempotencyError(cause)) throw cause;
      this.#options.onEvent({ type: "store_error", during: "begin", error: cause });
      throw new IdempotencyError("store_unavailable", { cause, retryAfterSeconds: 1 });
    }
  }

  /** Takes no new work, waits for what runs and for what goes on behind, and closes the store. */
  async close(graceMs: number): Promise<void> {
    this.#isClosing = true;
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

  #claimRequest(request: KeyedRequest, guarantee: Guarantee): ClaimRequest {
    return {
      scope: request.scope,
      key: request.key,
      claimId: this.#options.clock.uuid(),
      guarantee,
      fingerprint: request.fingerprint.text,
      fieldHashes: request.fingerprint.fieldHashes,
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
      fingerprint: request.fingerprint.text,
      fieldHashes: () => request.fingerprint.fieldHashes,
      startedMs,
      maxRunMs: request.route.maxRunMs,
    });
  }

  /** A claim that nobody will use is given back, whether or not it ever arrived. */
  async #giveBackUnused(claimRequest: ClaimRequest): Promise<void> {
    await attemptFor(this.#options.clock, this.#options.leaseMs, async () => {
      const found = await this.#store.find(claimRequest);
      if (found?.record.claimId !== claimRequest.claimId || found.record.state !== "running")
        return;
      const { scope, key, claimId, token, attempt } = found.record;
      await this.#store.release({ scope, key, claimId, token, attempt });
    });
  }

  #inBackground(work: Promise<void>): void {
    const tracked: Promise<void> = work.finally(() => this.#background.delete(tracked));
    this.#background.add(tracked);
  }
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
    giveBack: ({ claim }) => store.release(claim),
  };
}

function transactionClaimer(
  store: Store,
  timeoutMs: number,
): Claimer<{ readonly open: OpenTransaction }> {
  const source = sourceOf(store);
  return {
    claim: (request) => source.claim(request, { timeoutMs }),
    takeOver: (request, observed) => source.takeOver(request, observed, { timeoutMs }),
    // A claim whose reply was lost was never committed: its session is gone, and with it the claim.
    own: () => undefined,
    giveBack: ({ open }) => open.rollback(),
  };
}

function sourceOf(store: Store): NonNullable<Store["transactions"]> {
  if (store.transactions !== undefined) return store.transactions;
  throw new IdempotencyError("options_invalid", {
    detail: "Transaction routes need a store with transactions, such as postgresStore({ pool }).",
  });
}
