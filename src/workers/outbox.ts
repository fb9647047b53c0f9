/**
 * The outbox worker: takes due messages, delivers them, and removes old ones. Owns: how many are under way, when it looks
 * again, and how it stops. Any number of workers in any number of processes share the work.
 */
import { openOutbox } from "../stores/outbox.js";
import type { Outbox } from "../stores/outbox.js";
import { onOutboxWake } from "../stores/outbox-wake.js";
import { deliver } from "./outbox-delivery.js";
import type { Delivered, DeliveryContext } from "./outbox-delivery.js";
import { resolveWorker } from "./outbox-options.js";
import type { OutboxWorkerOptions, ResolvedWorker } from "./outbox-options.js";
import { createWake } from "./wake.js";
import type { Wake } from "./wake.js";

/** What one round came to. */
export interface OutboxRound {
  readonly delivered: number;
  /** Failed, and due again later. */
  readonly failed: number;
  readonly setAside: number;
  /** Another worker has these since, or will have when their lease is over. */
  readonly lost: number;
}

export interface OutboxWorker {
  /** Begins to deliver, until `stop`. */
  start(): void;
  /**
   * Delivers what is due now, and what becomes due by that, until nothing is. Rejects where the outbox cannot be reached.
   * For tests and for jobs that are started by a clock.
   */
  runOnce(): Promise<OutboxRound>;
  /** Looks for due messages now. Commits of this process on the same pool do this by themselves. */
  wake(): void;
  /**
   * Takes no more messages, lets deliveries end (at most `graceMs`, default 10 s), then aborts them and gives their messages
   * back. Resolves when the worker holds no connection any more.
   */
  stop(options?: { readonly graceMs?: number }): Promise<void>;
}

const defaultGraceMs = 10_000;
/** How long an aborted delivery may take to say so. One that does not keeps its message until the lease is over. */
const abortGraceMs = 1_000;
const reapBatch = 1_000;

/**
 * Makes a worker that delivers the messages of `req.idempotency.send` and `steps.send`: each at least once, those of one key
 * in their order, and never two of one key at a time.
 *
 * A message whose attempts are used up is set aside, and later ones of its key wait until an operator requeues or skips it.
 *
 * @throws `options_invalid` that lists every problem at once.
 */
export function outboxWorker(given: OutboxWorkerOptions): OutboxWorker {
  return new Worker(resolveWorker(given));
}

class Worker implements OutboxWorker {
  readonly #options: ResolvedWorker;
  readonly #outbox: Outbox;
  readonly #context: DeliveryContext;
  readonly #inFlight = new Set<Promise<Delivered>>();
  readonly #wake: Wake;
  readonly #stopListening: () => void;
  readonly #stopRequested = new AbortController();
  readonly #aborted = new AbortController();
  readonly #closed = new AbortController();
  /** Slots kept for the messages of claims that are under way. */
  #claiming = 0;
  #loops: Promise<unknown> | undefined;
  #stopping: Promise<void> | undefined;

  constructor(options: ResolvedWorker) {
    this.#options = options;
    this.#outbox = openOutbox(options);
    this.#context = {
      options,
      outbox: this.#outbox,
      stopped: this.#aborted.signal,
      closed: this.#closed.signal,
    };
    this.#wake = createWake(options.clock);
    this.#stopListening = onOutboxWake(options.pool, options.schema, () => this.#wake.now());
  }

  start(): void {
    if (this.#isStopping) throw new Error("the outbox worker was stopped");
    this.#loops ??= Promise.all([this.#deliverLoop(), this.#reapLoop()]);
  }

  wake(): void {
    this.#wake.now();
  }

  async runOnce(): Promise<OutboxRound> {
    const counts: Record<Delivered, number> = {
      delivered: 0,
      failed: 0,
      set_aside: 0,
      given_back: 0,
      lost: 0,
      unsettled: 0,
    };
    const mine = new Set<Promise<void>>();
    for (;;) {
      // Before the look: what ends during it may have made a message due that it did not see.
      const wasIdle = mine.size === 0;
      const begun = await this.#fill();
      for (const delivery of begun) {
        const count = async (): Promise<void> => {
          counts[await delivery] += 1;
          mine.delete(counted);
        };
        const counted = count();
        mine.add(counted);
      }
      if (begun.length === 0 && wasIdle) break;
      if (mine.size > 0 && (begun.length === 0 || this.#free === 0)) await Promise.race(mine);
    }
    const { delivered, failed, set_aside: setAside } = counts;
    return {
      delivered,
      failed,
      setAside,
      lost: counts.lost + counts.unsettled + counts.given_back,
    };
  }

  stop({ graceMs = defaultGraceMs }: { readonly graceMs?: number } = {}): Promise<void> {
    this.#stopping ??= this.#stop(graceMs);
    return this.#stopping;
  }

  async #stop(graceMs: number): Promise<void> {
    this.#stopRequested.abort();
    this.#stopListening();
    this.#wake.now();
    // What a claim under way still brings is delivered too.
    await this.#loops;
    await this.#settled(graceMs);
    this.#aborted.abort();
    await this.#settled(abortGraceMs);
    this.#closed.abort();
    await this.#outbox.close();
  }

  get #isStopping(): boolean {
    return this.#stopRequested.signal.aborted;
  }

  get #free(): number {
    return this.#options.concurrency - this.#inFlight.size - this.#claiming;
  }

  /** Takes as many messages as there is room for, so that none waits here while its lease runs. */
  async #fill(): Promise<readonly Promise<Delivered>[]> {
    const free = this.#free;
    if (this.#isStopping || free <= 0) return [];
    const startedMs = this.#options.clock.monotonicMs();
    this.#claiming += free;
    const messages = await this.#outbox
      .claim(free, this.#options.leaseMs)
      .finally(() => (this.#claiming -= free));
    return messages.map((message) => {
      const delivery = deliver(this.#context, message, startedMs).finally(() => {
        this.#inFlight.delete(delivery);
        this.#wake.now();
      });
      this.#inFlight.add(delivery);
      return delivery;
    });
  }

  async #deliverLoop(): Promise<void> {
    while (!this.#isStopping) {
      const begun = await this.#quietly("claim", () => this.#fill());
      if (begun === undefined || begun.length === 0 || this.#free <= 0)
        await this.#wake.wait(this.#options.pollMs);
    }
  }

  async #reapLoop(): Promise<void> {
    const { keepDeliveredMs, reapEveryMs, clock } = this.#options;
    while (!this.#isStopping) {
      const removed = await this.#quietly("reap", () =>
        this.#outbox.reap(keepDeliveredMs, reapBatch),
      );
      if (removed !== reapBatch) await clock.sleep(reapEveryMs, this.#stopRequested.signal);
    }
  }

  async #quietly<T>(during: string, work: () => Promise<T>): Promise<T | undefined> {
    try {
      return await work();
    } catch (error) {
      this.#options.onEvent({ type: "store_error", during, error });
      return undefined;
    }
  }

  /** Resolves when nothing is under way, or when the time is up. */
  async #settled(ms: number): Promise<void> {
    const done = new AbortController();
    const all = Promise.all(this.#inFlight).then(() => done.abort());
    await Promise.race([all, this.#options.clock.sleep(ms, done.signal)]);
    done.abort();
  }
}
