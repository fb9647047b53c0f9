/**
 * A response that is held no more before it has ended: too large to keep, or a stream. Owns: its way from the bytes that were held to
 * the last ones, which wait until the row says that all have been written.
 */
import type { ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { heldHead } from "./head.js";
import type { HeldMethods } from "./response-methods.js";

type Passed = ServerResponse & {
  /** The serialised head; see {@link heldHead}. */
  _header?: string | null;
};

export class PassingResponse {
  readonly #res: Passed;
  readonly #methods: HeldMethods;
  readonly #beforeEnd: () => Promise<void>;
  #isEnding = false;
  #isLeaving = false;

  constructor(res: ServerResponse, methods: HeldMethods, beforeEnd: () => Promise<void>) {
    this.#res = res;
    this.#methods = methods;
    this.#beforeEnd = beforeEnd;
  }

  /** Sends what was held; the rest follows as it is written. */
  begin(held: Buffer): void {
    // Nobody reads any more, and a pipe into a closed response never ends it.
    this.#res.once("close", () => this.end([]));
    if (held.length === 0) this.#methods.original("flushHeaders", []);
    const flowing = held.length === 0 || this.#methods.original("write", [held]) === true;
    if (flowing) process.nextTick(() => this.#res.emit("drain"));
    // Destroyed while the row was told: its close may have passed.
    if (this.#res.destroyed) this.end([]);
  }

  /** Lets a socket that the handler has taken go. */
  letGo(taken: Socket): void {
    const settle = (): void => void this.#beforeEnd();
    if (taken.destroyed) settle();
    else taken.once("close", settle);
    taken.uncork();
  }

  /** What reads the whole response finds its key in its final state. Until then no framework may begin another one. */
  end(args: readonly unknown[]): void {
    if (this.#isEnding) return;
    this.#isEnding = true;
    this.#res._header ||= heldHead;
    void this.#beforeEnd().finally(() => {
      if (this.#res._header === heldHead) this.#res._header = null;
      // The response that Fastify's inject makes writes the last bytes by a method of its own that is ours by now.
      this.#isLeaving = true;
      try {
        this.#methods.original("end", args);
      } catch (error) {
        // Nobody is left who could catch it.
        this.#methods.original("destroy", [error]);
      }
    });
  }

  /** True from its end until the last bytes leave. */
  isEnding(): boolean {
    return this.#isEnding && !this.#isLeaving;
  }
}
