/**
 * Plain routes on Node: runs the handlers behind the middleware and sends their response when it is durable.
 */
import type { ServerResponse } from "node:http";
import { IdempotencyError } from "../core/errors.js";
import type { ResolvedRoute } from "../core/options.js";
import type { PlainRun } from "../core/plain-run.js";
import type { StoredResponse } from "../core/record.js";
import { storesHeader } from "../core/stored-headers.js";
import type { StoresHeader } from "../core/stored-headers.js";
import { refuseInstead, sendInstead } from "./adapter.js";
import type { Claimant, NextFunction } from "./adapter.js";
import {
  giveBack,
  refusal,
  refusalFor,
  saysNothingHappened,
  settlePlain,
  unstoredHeaders,
} from "./answer.js";
import { ClaimContext } from "./context.js";
import type { AdapterContext, Keyed } from "./context.js";
import { record } from "./recorder.js";
import type { RecorderOptions, Recording } from "./recording.js";

/** Hands the request on to its handlers, under a claim. False where they must not run, since it has been answered already. */
export function runPlain(
  context: AdapterContext<never>,
  keyed: Keyed,
  run: PlainRun,
  exchange: {
    readonly req: Claimant;
    readonly res: ServerResponse;
    readonly next: NextFunction;
  },
): boolean {
  const { req, res, next } = exchange;
  // A time limit in front has answered while the key was being claimed: nothing can be recorded any more, and nothing has run.
  if (res.headersSent || res.writableEnded) {
    void run.giveBackUnused();
    return false;
  }
  const handle = new ClaimContext(run.claim);
  try {
    new PlainExchange(context, keyed, run, handle, res).record();
  } catch (error) {
    void run.giveBackUnused();
    throw error;
  }
  req.idempotency = handle;
  next();
  return true;
}

/** A class, since every request under way holds one: a closure for each thing that can happen would be most of what it weighs. */
class PlainExchange implements RecorderOptions {
  readonly #context: AdapterContext<never>;
  readonly #keyed: Keyed;
  readonly #run: PlainRun;
  readonly #handle: ClaimContext;
  readonly #res: ServerResponse;
  #recording: Recording | undefined;
  #stopTimer: (() => void) | undefined;

  constructor(
    context: AdapterContext<never>,
    keyed: Keyed,
    run: PlainRun,
    handle: ClaimContext,
    res: ServerResponse,
  ) {
    this.#context = context;
    this.#keyed = keyed;
    this.#run = run;
    this.#handle = handle;
    this.#res = res;
  }

  record(): void {
    this.#recording = record(this.#res, this);
    const { handlerTimeoutMs } = this.#route;
    if (handlerTimeoutMs > 0)
      this.#stopTimer = this.#context.clock.after(handlerTimeoutMs, () => this.#answerLate());
  }

  get maxBytes(): number {
    return this.#route.maxResponseBytes;
  }

  get isStream(): boolean {
    return this.#route.stream;
  }

  get stores(): StoresHeader {
    return storesHeader(this.#route.storeHeaders);
  }

  onEnd(response: StoredResponse): void {
    this.#stopTimer?.();
    if (this.#nothingHappened(response.status)) this.#watch("release", this.#release());
    else this.#watch("complete", this.#complete(response));
  }

  onOverflow(): "wait" {
    this.#stopTimer?.();
    if (this.#nothingHappened(this.#res.statusCode)) this.#watch("release", this.#releaseLarge());
    else this.#watch("stream", this.#passLarge());
    return "wait";
  }

  onGivenUp(): void {
    this.#stopTimer?.();
    this.#watch("give_up", this.#giveUp());
  }

  get #route(): ResolvedRoute {
    return this.#keyed.request.route;
  }

  #recorded(): Recording {
    if (this.#recording === undefined) throw new Error("nothing is recorded yet");
    return this.#recording;
  }

  #nothingHappened(status: number): boolean {
    return ClaimContext.isReleased(this.#handle) || saysNothingHappened(this.#keyed, status);
  }

  #watch(during: string, work: Promise<void>): void {
    const { onEvent } = this.#context.options;
    work.catch((error: unknown) => {
      onEvent({ type: "store_error", during, error });
      this.#recording?.fail();
    });
  }

  /** The client is told that its handler takes too long; the handler goes on, and the key with it. */
  #answerLate(): void {
    const error = new IdempotencyError("handler_timeout");
    const { response, headers } = refusal(this.#context, this.#keyed, error);
    this.#recorded().answerEarly(response, headers);
  }

  /** No answer stands for what the handler did, unless it has said that it did nothing. */
  async #giveUp(): Promise<void> {
    if (ClaimContext.isReleased(this.#handle)) await this.#run.release();
    else await this.#run.completeNotStored();
  }

  async #complete(response: StoredResponse): Promise<void> {
    const settled = await settlePlain(this.#context, this.#keyed, this.#run, response);
    if (settled.kind === "instead") {
      sendInstead(this.#recorded(), settled.answer);
      return;
    }
    const { headers, replayUntilMs } = settled;
    if (replayUntilMs !== undefined) ClaimContext.stored(this.#handle, replayUntilMs);
    this.#recorded().send(headers);
  }

  async #release(): Promise<void> {
    const headers = await giveBack(this.#context, this.#keyed, this.#run);
    this.#recorded().send(headers);
  }

  async #releaseLarge(): Promise<void> {
    const headers = await giveBack(this.#context, this.#keyed, this.#run);
    this.#recorded().stream(headers, () => Promise.resolve());
  }

  /** Too large to keep, or a stream: the row says so before the first byte leaves, and is completed after the last one. */
  async #passLarge(): Promise<void> {
    const run = this.#run;
    const marked = await run.markNotStored();
    if (marked === "lost" || marked === "unavailable") {
      const code = marked === "lost" ? "outcome_unknown" : marked;
      refuseInstead(this.#context, this.#keyed, this.#recorded(), refusalFor(code));
      await run.completeNotStored();
      return;
    }
    const headers = unstoredHeaders(this.#context, this.#keyed);
    this.#recorded().stream(headers, () => run.completeNotStored());
  }
}
