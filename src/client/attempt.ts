/**
 * One attempt at a request. Owns: its time limit, the caller's signal, and reading the reply to its end. Must never give back a
 * reply whose body may still be cut: for the caller that would be an answer, and for the money it is a lost one.
 */
import type { ClientClock } from "./clock.js";

/** The `fetch` that is wrapped. */
export type Fetch = typeof fetch;

export type Attempted =
  /** `text` is the body of an error, and empty otherwise. */
  | { readonly kind: "answered"; readonly response: Response; readonly text: string }
  | { readonly kind: "lost"; readonly error: unknown };

interface Attempt {
  readonly send: (signal: AbortSignal) => Promise<Response>;
  readonly timeoutMs: number;
  readonly clock: ClientClock;
  readonly signal: AbortSignal | null | undefined;
}

/** Throws only what the caller's signal says. */
export async function attempt({ send, timeoutMs, clock, signal }: Attempt): Promise<Attempted> {
  const limits = new AbortController();
  const giveUp = (): void => limits.abort(signal?.reason);
  signal?.addEventListener("abort", giveUp);
  const stopTimer = clock.after(timeoutMs, () =>
    limits.abort(new DOMException(`No reply within ${timeoutMs} ms.`, "TimeoutError")),
  );
  try {
    signal?.throwIfAborted();
    const response = await orAborted(send(limits.signal), limits.signal);
    // Read whole, since a fetch resolves with the headers; the clone keeps the bytes, the URL and the rest for the caller.
    const whole = response.clone();
    const text = await orAborted(drain(response), limits.signal);
    return { kind: "answered", response: whole, text };
  } catch (error) {
    signal?.throwIfAborted();
    return { kind: "lost", error };
  } finally {
    stopTimer();
    signal?.removeEventListener("abort", giveUp);
  }
}

async function drain(response: Response): Promise<string> {
  if (response.status >= 400) return response.text();
  await response.arrayBuffer();
  return "";
}

/** A `fetch` of the caller's own may not know signals; its time limit holds all the same. */
function orAborted<Result>(work: Promise<Result>, signal: AbortSignal): Promise<Result> {
  return new Promise((resolve, reject) => {
    const stop = (): void => reject(signal.reason as Error);
    signal.addEventListener("abort", stop);
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", stop));
  });
}
