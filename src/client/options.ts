/** What a client and a call can be told. Owns: defaults, and finding every mistake in them at once. */
import type { Fetch } from "./attempt.js";
import { type ClientClock, systemClock } from "./clock.js";
import type { KeyStore } from "./key-stores.js";

/** What can be set for a client, and for one call. */
export interface RetryOptions {
  /** How often a request is sent again after the first time. 0 to 100; default 5. */
  readonly retries?: number;
  /** How long one attempt may take, from connecting to the last byte of the reply, in milliseconds. Default 30,000. */
  readonly timeoutMs?: number;
}

export interface ClientOptions extends RetryOptions {
  /** Default: the global `fetch`. */
  readonly fetch?: Fetch;
  /** Where the keys of named calls are kept; needed for `call`. */
  readonly keys?: KeyStore;
  /** The longest first pause in milliseconds; it doubles with each retry, and a pause is a random part of it. Default 500. */
  readonly firstDelayMs?: number;
  /**
   * The longest pause in milliseconds. A server that asks for a longer one by `Retry-After` is not asked again: its answer is
   * given back. Default 30,000.
   */
  readonly maxDelayMs?: number;
  /** Time and randomness, for tests. */
  readonly clock?: ClientClock;
}

export type Settings = Required<Omit<ClientOptions, "fetch" | "keys">> &
  Pick<ClientOptions, "fetch" | "keys">;

const defaults = {
  fetch: undefined,
  keys: undefined,
  retries: 5,
  timeoutMs: 30_000,
  firstDelayMs: 500,
  maxDelayMs: 30_000,
  clock: systemClock,
};

/** The longest a timer can wait (2^31 - 1 ms); beyond it, timers fire at once. */
const longestMs = 2_147_483_647;
const bounds = {
  retries: [0, 100],
  timeoutMs: [1, longestMs],
  firstDelayMs: [0, longestMs],
  maxDelayMs: [0, longestMs],
} as const;

/** Throws a TypeError that names every problem. */
export function settingsOf(base: ClientOptions, changes: RetryOptions = {}): Settings {
  const settings: Record<string, unknown> = { ...defaults };
  const problems: string[] = [];
  for (const [name, value] of [...Object.entries(base), ...Object.entries(changes)]) {
    if (!(name in defaults)) problems.push(`${name} is not an option`);
    else if (value !== undefined) settings[name] = value;
  }
  for (const [name, [least, most]] of Object.entries(bounds)) {
    const value = settings[name] as number;
    if (!(value >= least && value <= most)) problems.push(`${name} must be ${least} to ${most}`);
  }
  if (problems.length > 0) throw new TypeError(`${problems.join("; ")}.`);
  return settings as unknown as Settings;
}
