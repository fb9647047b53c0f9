/**
 * Handlers that take their time when they are asked to, by a source such as `tok_slow_500` or a customer such as `slow_500`:
 * for trying out crashes, time-outs and concurrent retries by hand.
 */
import { setTimeout as pause } from "node:timers/promises";

/** Longest wait that can be asked for, so that nobody holds a connection for ever. */
const maxSlowMs = 10_000;

/** Waits as long as the name says; not at all for any other name. */
export async function beSlow(name: string | undefined): Promise<void> {
  const [, digits] = /^(?:tok_)?slow_(\d{1,5})$/.exec(name ?? "") ?? [];
  if (digits !== undefined) await pause(Math.min(Number(digits), maxSlowMs));
}
