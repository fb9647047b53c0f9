/**
 * One attempt at a steps request: the `steps` that its handler is given. Owns: that a step whose result is stored is never
 * run again, that a changed handler is noticed before it does anything twice, and that what must not be repeated is not.
 */
import type {
  AttemptResult,
  CallContext,
  CallOptions,
  Reconciled,
  ResolvedSteps,
  Steps,
  StepsHandler,
  StepsReply,
  StepsRequest,
} from "../core/attempt.js";
import type { Clock } from "../core/clock.js";
import { startDeadline } from "../core/deadline.js";
import { downstreamKey } from "../core/downstream-key.js";
import { outboxMessage, sendName } from "../core/outbox-message.js";
import type { Claim } from "../core/record.js";
import { pauseAfter } from "../core/retry.js";
import type { RecordedStep, StepKind, StepRef, StepsSource } from "../core/steps-port.js";
import { toResponse } from "../core/reply.js";
import { deserialise, serialise } from "./serialise.js";

/** Largest result of a step, serialised: recovery points are read whole on every resume. */
const maxResultBytes = 1024 * 1024;
const defaultRetries = 2;

export interface AttemptContext {
  readonly source: StepsSource;
  readonly clock: Clock;
  readonly options: ResolvedSteps;
}

/** Runs a handler from its last recovery point to its end. Never rejects. */
export async function runAttempt(
  context: AttemptContext,
  handler: StepsHandler,
  claim: Claim,
  request: StepsRequest,
  signal: AbortSignal,
): Promise<AttemptResult> {
  try {
    // A first attempt has no recovery points to read.
    const recorded = claim.attempt === 1 ? [] : await context.source.load(claim);
    const attempt = new Attempt(context, claim, recorded, signal);
    return await attempt.run(handler, request);
  } catch (error) {
    return { kind: "failed", error };
  }
}

class Definitive extends Error {
  readonly reply: StepsReply;
  constructor(reply: StepsReply) {
    super("The handler failed definitively.");
    this.reply = reply;
  }
}

/** Ends an attempt, whatever the handler makes of the error. */
class Ended extends Error {
  readonly result: Exclude<AttemptResult, { kind: "reply" }>;
  constructor(result: Exclude<AttemptResult, { kind: "reply" }>, message: string) {
    super(message);
    this.result = result;
  }
}

class Attempt implements Steps {
  readonly #context: AttemptContext;
  readonly #claim: Claim;
  readonly #byPosition: ReadonlyMap<number, RecordedStep>;
  readonly #byName: ReadonlyMap<string, RecordedStep>;
  readonly #signal: AbortSignal;
  readonly #names = new Set<string>();
  /** Transactions under way, also those that the handler does not await. */
  readonly #open = new Set<Promise<unknown>>();
  #sent = 0;
  #position = 0;
  /** Set once; no step runs after it, and the handler's answer does not count. */
  #ended: Ended | undefined;

  constructor(
    context: AttemptContext,
    claim: Claim,
    recorded: readonly RecordedStep[],
    signal: AbortSignal,
  ) {
    this.#context = context;
    this.#claim = claim;
    this.#byPosition = new Map(recorded.map((step) => [step.position, step]));
    this.#byName = new Map(recorded.map((step) => [step.name, step]));
    this.#signal = signal;
  }

  async run(handler: StepsHandler, request: StepsRequest): Promise<AttemptResult> {
    const result = await this.#resultOf(handler, request);
    // A handler that was left behind by a time limit begins no further step.
    this.#end({ kind: "lost" }, "The attempt has ended.");
    // What it left open locks the row of its key: whatever is written to that row next would have to wait.
    if (this.#open.size > 0)
      await untilAborted(Promise.allSettled(this.#open), this.#signal).catch(() => undefined);
    return result;
  }

  async #resultOf(handler: StepsHandler, request: StepsRequest): Promise<AttemptResult> {
    try {
      const reply = await untilAborted(handler(request, this), this.#signal);
      if (this.#ended !== undefined) return this.#ended.result;
      this.#checkAllCalled();
      return { kind: "reply", response: toResponse(reply) };
    } catch (error) {
      const ended = this.#ended ?? (error instanceof Ended ? error : undefined);
      if (ended !== undefined) return ended.result;
      if (error instanceof Definitive) return { kind: "reply", response: toResponse(error.reply) };
      return { kind: "failed", error };
    }
  }

  async transaction<Result>(name: string, work: (tx: never) => Promise<Result>): Promise<Result> {
    const running = this.#transact(name, work);
    this.#open.add(running);
    try {
      return await running;
    } finally {
      this.#open.delete(running);
    }
  }

  async #transact<Result>(name: string, work: (tx: never) => Promise<Result>): Promise<Result> {
    const step = this.#begin(name, "transaction");
    const recorded = this.#byPosition.get(step.position);
    if (recorded !== undefined) return deserialise(recorded.result) as Result;
    const timeoutMs = this.#context.options.stepTimeoutMs;
    for (;;) {
      let result: Result | undefined;
      const commit = await this.#context.source.transaction(
        this.#claim,
        step,
        { timeoutMs },
        async (tx) => {
          result = await this.#within(timeoutMs, () => work(tx as never));
          const text = serialise(result);
          if (isTooLarge(text)) throw tooLarge(step);
          return text;
        },
      );
      if (commit === "committed") return result as Result;
      if (commit === "lost") throw this.#lose();
      // It is certain that nothing was written: the step has not run yet.
    }
  }

  async call<Result>(
    name: string,
    work: (context: CallContext) => Promise<Result>,
    options: CallOptions<Result> = {},
  ): Promise<Result> {
    const step = this.#begin(name, "call");
    const recorded = this.#byPosition.get(step.position);
    if (recorded?.state === "done") return deserialise(recorded.result) as Result;
    const result =
      options.repeatable === false
        ? await this.#callOnce(step, recorded, work, options)
        : await this.#callRepeatably(step, work, options);
    const text = serialise(result);
    // It happened, and cannot be remembered: repeating it would be wrong, and so would be going on.
    if (isTooLarge(text)) throw this.#admit(step, tooLarge(step));
    const saved = await this.#context.source.save(this.#claim, step, text);
    if (saved === "lost") throw this.#lose();
    return result;
  }

  async send(topic: string, payload: unknown): Promise<void> {
    const name = sendName(this.#sent + 1);
    // What cannot be sent is refused before it has a place among the steps.
    const message = outboxMessage(this.#claim, name, topic, payload);
    this.#sent += 1;
    const step = this.#begin(`${name} ${topic}`.slice(0, 200), "send");
    if (this.#byPosition.has(step.position)) return;
    const sent = await this.#context.source.send(this.#claim, step, message);
    if (sent === "lost") throw this.#lose();
  }

  fail(reply: StepsReply): Error {
    // A reply that is no response is the handler's mistake now, not when it is stored.
    toResponse(reply);
    return new Definitive(reply);
  }

  #begin(name: string, kind: StepKind): StepRef {
    if (this.#ended !== undefined) throw this.#ended;
    if (name === "" || name.length > 200)
      throw new TypeError("A step needs a name of 1 to 200 characters.");
    const position = this.#position;
    this.#position += 1;
    if (this.#names.has(name)) throw new TypeError(`Two steps of one request are called ${name}.`);
    this.#names.add(name);
    const here = this.#byPosition.get(position);
    const elsewhere = this.#byName.get(name);
    const isAnother = here !== undefined && (here.name !== name || here.kind !== kind);
    if (isAnother || (elsewhere !== undefined && elsewhere.position !== position)) {
      const was =
        here === undefined
          ? `recorded as step ${elsewhere?.position}`
          : `${here.kind} ${here.name}`;
      throw this.#change(`Step ${position} is ${kind} ${name} now and was ${was}.`);
    }
    return { position, name, kind };
  }

  #checkAllCalled(): void {
    const missing = [...this.#byPosition.values()].find((step) => step.position >= this.#position);
    if (missing !== undefined) {
      throw this.#change(
        `Step ${missing.position}, ${missing.kind} ${missing.name}, is not there any more.`,
      );
    }
  }

  /** Stores the intention, calls once, and admits it where the result is lost. */
  async #callOnce<Result>(
    step: StepRef,
    recorded: RecordedStep | undefined,
    work: (context: CallContext) => Promise<Result>,
    options: CallOptions<Result>,
  ): Promise<Result> {
    const timeoutMs = options.timeoutMs ?? this.#context.options.stepTimeoutMs;
    if (recorded !== undefined) {
      const reconciled = await this.#reconcile(step, options, timeoutMs);
      if (reconciled.kind === "happened") return reconciled.result;
      if (reconciled.kind === "unknown") throw this.#admit(step);
    }
    const intended = await this.#context.source.intend(this.#claim, step);
    if (intended === "lost") throw this.#lose();
    try {
      return await this.#within(timeoutMs, (signal) => work(this.#callContext(step, 1, signal)));
    } catch (error) {
      if (error instanceof Definitive) throw error;
      const reconciled = await this.#reconcile(step, options, timeoutMs);
      if (reconciled.kind === "happened") return reconciled.result;
      if (reconciled.kind === "unknown") throw this.#admit(step, error);
      throw error;
    }
  }

  async #callRepeatably<Result>(
    step: StepRef,
    work: (context: CallContext) => Promise<Result>,
    options: CallOptions<Result>,
  ): Promise<Result> {
    const { retries = defaultRetries, timeoutMs = this.#context.options.stepTimeoutMs } = options;
    const { clock } = this.#context;
    for (let tries = 1; ; tries += 1) {
      try {
        return await this.#within(timeoutMs, (signal) =>
          work(this.#callContext(step, tries, signal)),
        );
      } catch (error) {
        if (error instanceof Definitive || tries > retries || this.#signal.aborted) throw error;
        await clock.sleep(pauseAfter(tries, clock.random()), this.#signal);
      }
    }
  }

  async #reconcile<Result>(
    step: StepRef,
    options: CallOptions<Result>,
    timeoutMs: number,
  ): Promise<Reconciled<Result>> {
    const { reconcile } = options;
    if (reconcile === undefined) return { kind: "unknown" };
    return this.#within(timeoutMs, (signal) => reconcile(this.#callContext(step, 1, signal)));
  }

  #callContext(step: StepRef, attempt: number, signal: AbortSignal): CallContext {
    return { key: downstreamKey(this.#claim, step.name), attempt, signal };
  }

  async #within<Result>(
    ms: number,
    work: (signal: AbortSignal) => Promise<Result>,
  ): Promise<Result> {
    const message = `The step did not end within ${ms} ms.`;
    const deadline = startDeadline(this.#context.clock, ms, message);
    const signal = AbortSignal.any([deadline.signal, this.#signal]);
    try {
      return await untilAborted(work(signal), signal);
    } finally {
      deadline.clear();
    }
  }

  #lose(): Error {
    return this.#end({ kind: "lost" }, "The claim was taken over.");
  }

  #change(message: string): Error {
    return this.#end({ kind: "definition_changed", error: new Error(message) }, message);
  }

  #admit(step: StepRef, cause?: unknown): Error {
    const error = new Error(`It is not known whether the call ${step.name} happened.`, { cause });
    return this.#end({ kind: "unknown", error }, error.message);
  }

  #end(result: Exclude<AttemptResult, { kind: "reply" }>, message: string): Error {
    this.#ended ??= new Ended(result, message);
    return this.#ended;
  }
}

function isTooLarge(text: string): boolean {
  return Buffer.byteLength(text) > maxResultBytes;
}

function tooLarge(step: StepRef): Error {
  return new Error(`The result of step ${step.name} is larger than ${maxResultBytes} bytes.`);
}

async function untilAborted<Result>(work: Promise<Result>, signal: AbortSignal): Promise<Result> {
  let stop: () => void = () => undefined;
  const aborted = new Promise<never>((_resolve, reject) => {
    stop = () => reject(signal.reason as Error);
    if (signal.aborted) stop();
    else signal.addEventListener("abort", stop, { once: true });
  });
  try {
    return await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener("abort", stop);
  }
}
