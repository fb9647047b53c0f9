/**
 * From a request to a claim, a replay or a refusal. Owns: carrying out what `decide` decides against a store that may answer
 * late or not at all, and who may wait. The same for every kind of route.
 */
import { decide, differingFields } from "./decide.js";
import { IdempotencyError, isIdempotencyError } from "./errors.js";
import type { RefusalCode } from "./errors.js";
import { nameOf } from "./key.js";
import type { ClaimAnswer } from "./ports.js";
import { reconcile } from "./reconcile.js";
import type {
  Claim,
  ClaimRequest,
  Guarantee,
  KeyRecord,
  KeyRef,
  StoredFingerprint,
} from "./record.js";
import type { EngineOptions, KeyedRequest, Outcome } from "./request.js";
import { attemptFor } from "./retry.js";
import type { HeldRun, RunRegister } from "./runs.js";
import { createWaitingRooms } from "./waiting.js";
import type { WaitingRooms } from "./waiting.js";

export type Claimed<Extra> = { readonly kind: "claimed"; readonly claim: Claim } & Extra;
type NotClaimed = Exclude<ClaimAnswer, { readonly kind: "claimed" }>;

/** How one kind of route claims. */
export interface Claimer<Extra> {
  readonly claim: (request: ClaimRequest) => Promise<Claimed<Extra> | NotClaimed>;
  readonly takeOver: (
    request: ClaimRequest,
    observed: KeyRecord,
  ) => Promise<Claimed<Extra> | NotClaimed>;
  /** What to do with a record that carries the asker's own claim id. */
  readonly own: (record: KeyRecord) => Claimed<Extra> | undefined;
  /** Gives back a claim that came when its request had been answered already. */
  readonly giveBack: (claimed: Claimed<Extra>, guarantee: Guarantee) => Promise<unknown>;
}

interface Look {
  readonly route: object;
  readonly fingerprint: StoredFingerprint;
  readonly looking: Promise<Claimed<object> | Outcome>;
}

/** A key that changes hands more often than this during one request is busy enough to answer `in_progress`. */
const maxRounds = 8;
/** Seconds of Retry-After. Most handlers end within one. */
const retryAfterSeconds = 1;

export class Claiming {
  readonly #options: EngineOptions;
  readonly #register: RunRegister;
  readonly #rooms: WaitingRooms;
  /** Looks under way of requests that do not wait, by the name of their key. */
  readonly #looks = new Map<string, Look>();
  #isClosing = false;

  constructor(options: EngineOptions, register: RunRegister) {
    this.#options = options;
    this.#register = register;
    const { clock, store, lookPauses: pauses } = options;
    this.#rooms = createWaitingRooms({
      clock,
      pauses,
      // What runs in this process is told of by `ended`.
      watch: (ref, onHint) =>
        register.running(ref) === undefined ? store.watch?.(ref, onHint) : undefined,
    });
  }

  /** A run of this process has ended, so that its key's waiters should look. */
  ended(ref: KeyRef): void {
    this.#rooms.wake(ref);
  }

  /** Requests that wait now. */
  waiting(): number {
    return this.#rooms.size();
  }

  /** Claims nothing more, and lets nobody wait. */
  close(): void {
    this.#isClosing = true;
    this.#rooms.close();
  }

  /** As the request says: once, or until the running one has ended or the time is up. Never rejects. */
  async claim<Extra>(
    request: KeyedRequest,
    claimRequest: ClaimRequest,
    claimer: Claimer<Extra>,
  ): Promise<Claimed<Extra> | Outcome> {
    const look = () => this.#lookPatiently(request, claimRequest, claimer);
    if (!this.#mayWait(request)) return this.#announced(await this.#lookOnce(request, look));
    let claimed: Claimed<Extra> | undefined;
    const looked = await this.#rooms.wait({
      ...request,
      fingerprint: request.fingerprint.text,
      look: async () => {
        const result = await look();
        if (result.kind !== "claimed") return result;
        claimed = result;
        return "claimed";
      },
    });
    if (looked !== "claimed") return this.#announced(looked);
    return claimed ?? this.#announced(refuse("in_progress"));
  }

  /**
   * What this process knows without asking anybody: a completed record that it remembers, or that it runs the key itself.
   * Undefined: claim.
   */
  known(request: KeyedRequest): Outcome | undefined {
    const seen = this.#options.store.peek?.(request);
    if (seen !== undefined) {
      const { record, nowMs } = seen;
      const comparison = request.fingerprint.compare(record.fingerprint);
      // A completed record is replayed or refused by whatever route asks; who must claim asks the store.
      const decision = decide(
        record,
        { claimId: "", guarantee: "at_most_once", comparison },
        nowMs,
      );
      if (decision.kind === "replay" && record.response !== undefined)
        return { kind: "replay", record, response: record.response };
      if (decision.kind === "refuse" && decision.code === "key_reused")
        return this.#announce(refuse(decision.code, differences(record, request)));
    }
    const running = this.#register.running(request);
    if (running === undefined || this.#mayWait(request)) return undefined;
    return this.#announce(decideLocally(running, request));
  }

  #mayWait(request: KeyedRequest): boolean {
    return request.waitMs > 0 && !request.signal.aborted && this.#rooms.hasRoom();
  }

  /** Equal requests that come while one of them looks are answered by its look; a claim is its alone. */
  async #lookOnce<Extra>(
    request: KeyedRequest,
    look: () => Promise<Claimed<Extra> | Outcome>,
  ): Promise<Claimed<Extra> | Outcome> {
    const name = nameOf(request);
    const { route } = request;
    const { fingerprint } = request;
    const other = this.#looks.get(name);
    if (other?.route === route && other.fingerprint.text === fingerprint.text) {
      const looked = await other.looking;
      return looked.kind === "claimed" ? refuse("in_progress") : looked;
    }
    const looking = look();
    if (other !== undefined) return looking;
    this.#looks.set(name, { route, fingerprint, looking });
    try {
      return await looking;
    } finally {
      this.#looks.delete(name);
    }
  }

  /** Repeats a look whose reply was lost: a claim is found again by its claim id. */
  async #lookPatiently<Extra>(
    request: KeyedRequest,
    claimRequest: ClaimRequest,
    claimer: Claimer<Extra>,
  ): Promise<Claimed<Extra> | Outcome> {
    if (this.#isClosing) return refuse("store_unavailable");
    const { clock, claimTimeoutMs, onEvent } = this.#options;
    const look = () => this.#look(request, claimRequest, claimer);
    const onLateError = (error: unknown) =>
      onEvent({ type: "store_error", during: "release", error });
    const attempted = await attemptFor(clock, claimTimeoutMs, look, {
      isFinal: isIdempotencyError,
      onLate: (answer) => {
        if (answer.kind === "claimed")
          claimer.giveBack(answer, claimRequest.guarantee).catch(onLateError);
      },
    });
    if (attempted.kind === "answered") return attempted.answer;
    const { error } = attempted;
    if (isIdempotencyError(error)) return { kind: "refuse", error };
    onEvent({ type: "store_error", during: "claim", error });
    return refuse("store_unavailable", { cause: error });
  }

  async #look<Extra>(
    request: KeyedRequest,
    claimRequest: ClaimRequest,
    claimer: Claimer<Extra>,
  ): Promise<Claimed<Extra> | Outcome> {
    const running = this.#register.running(request);
    if (running !== undefined) return decideLocally(running, request);
    let answer = await claimer.claim(claimRequest);
    for (let round = 0; round < maxRounds; round += 1) {
      if (answer.kind === "claimed") return answer;
      if (answer.kind === "locked") return refuse("in_progress");
      const { record, nowMs } = answer;
      const comparison = request.fingerprint.compare(record.fingerprint);
      const { claimId, guarantee } = claimRequest;
      const decision = decide(record, { claimId, guarantee, comparison }, nowMs);
      switch (decision.kind) {
        case "run":
          return claimer.own(record) ?? refuse("in_progress");
        case "replay":
          return record.response === undefined
            ? refuse("key_expired")
            : { kind: "replay", record, response: record.response };
        case "refuse": {
          const next = await this.#settleUnknown(
            decision.code,
            request,
            claimRequest,
            record,
            claimer,
          );
          if (next !== undefined) {
            answer = next;
            break;
          }
          return refuse(
            decision.code,
            decision.code === "key_reused" ? differences(record, request) : {},
          );
        }
        case "take_over":
          answer = await claimer.takeOver(claimRequest, record);
          break;
        default:
          return decision satisfies never;
      }
    }
    return refuse("in_progress");
  }

  /** Asks the route's hook about an unknown outcome; what the store says then, or undefined where it stays unknown. */
  async #settleUnknown<Extra>(
    code: RefusalCode,
    request: KeyedRequest,
    claimRequest: ClaimRequest,
    record: KeyRecord,
    claimer: Claimer<Extra>,
  ): Promise<Claimed<Extra> | NotClaimed | undefined> {
    if (code !== "outcome_unknown" || claimRequest.guarantee === "transaction") return undefined;
    const { route } = request;
    const outcome = await reconcile(this.#options, route.reconcile, record, route);
    if (outcome === "unknown") return undefined;
    return outcome === "completed"
      ? claimer.claim(claimRequest)
      : claimer.takeOver(claimRequest, record);
  }

  #announced<Extra>(result: Claimed<Extra> | Outcome): Claimed<Extra> | Outcome {
    return result.kind === "claimed" ? result : this.#announce(result);
  }

  #announce(outcome: Outcome): Outcome {
    if (outcome.kind === "refuse" && isRefusalCode(outcome.error.code))
      this.#options.onEvent({ type: "refused", code: outcome.error.code });
    return outcome;
  }
}

/** What this process itself knows of a key that it is running. */
function decideLocally(run: HeldRun, request: KeyedRequest): Outcome {
  // An uncommitted claim proves no mismatch: it may roll back, and then the other request is the first one.
  const isOther =
    run.guarantee !== "transaction" &&
    request.fingerprint.compare(run.fingerprint.text) === "other";
  if (!isOther) return refuse("in_progress");
  const asked = request.fingerprint.fieldHashesUnder(run.fingerprint.text);
  return refuse("key_reused", { differs: differingFields(run.fingerprint.fieldHashes, asked) });
}

function differences(record: KeyRecord, request: KeyedRequest): { differs: readonly string[] } {
  const asked = request.fingerprint.fieldHashesUnder(record.fingerprint);
  return { differs: differingFields(record.fieldHashes, asked) };
}

function refuse(
  code: RefusalCode,
  details: { differs?: readonly string[]; cause?: unknown } = {},
): { readonly kind: "refuse"; readonly error: IdempotencyError } {
  const retryable = code === "in_progress" || code === "store_unavailable";
  const error = new IdempotencyError(code, {
    ...details,
    ...(retryable ? { retryAfterSeconds } : {}),
  });
  return { kind: "refuse", error };
}

const refusalCodes: ReadonlySet<string> = new Set<RefusalCode>([
  "key_reused",
  "in_progress",
  "outcome_unknown",
  "key_expired",
  "response_not_stored",
  "store_unavailable",
]);

function isRefusalCode(code: string): code is RefusalCode {
  return refusalCodes.has(code);
}
