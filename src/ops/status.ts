/**
 * How full a store is, and what in it waits for somebody. Owns: the counts that operators look at. Reads only.
 */
import type { Guarantee, KeyRef, KeyState } from "../core/record.js";
import { outboxStats } from "../stores/outbox-operations.js";
import type { OutboxStats } from "../stores/outbox-operations.js";
import { read } from "./place.js";
import type { OpsPlace } from "./place.js";

export interface KeyCount {
  readonly state: KeyState;
  readonly guarantee: Guarantee;
  readonly keys: number;
}

export interface StoreStatus {
  /** One entry for each state and guarantee that there is a key of. */
  readonly keys: readonly KeyCount[];
  /** Running, and the lease is over: their process died or is frozen. */
  readonly abandoned: number;
  /** For how long the lease of the oldest of them has been over, in ms; undefined when there is none. */
  readonly oldestAbandonedMs: number | undefined;
  /** Of the abandoned: their retries are answered `outcome_unknown` until somebody settles them. */
  readonly unknown: number;
  /** Steps requests that were given up, to be retried or resolved by an operator. */
  readonly setAside: number;
  /** Steps requests that a completer would take now. */
  readonly due: number;
  /** For how long the oldest of them has been due, in ms; undefined when there is none. */
  readonly oldestDueMs: number | undefined;
  /** Rows that have something to remove: a response or the whole key. */
  readonly reapable: number;
  readonly outbox: OutboxStats;
  /** The oldest of the unknown ones and of those set aside. */
  readonly waiting: readonly WaitingKey[];
}

/** A key that stays as it is until somebody settles it. */
export interface WaitingKey extends KeyRef {
  readonly standing: "unknown" | "set_aside";
  readonly method: string;
  readonly path: string;
  readonly createdAt: Date;
}

interface StatusRow {
  readonly state: KeyState;
  readonly guarantee: Guarantee;
  readonly keys: number;
  readonly abandoned: number;
  readonly unknown: number;
  readonly set_aside: number;
  readonly due: number;
  readonly reapable: number;
  readonly abandoned_for_ms: number | null;
  readonly due_for_ms: number | null;
}

interface WaitingRow extends KeyRef {
  readonly state: KeyState;
  readonly method: string;
  readonly path: string;
  readonly created_at_ms: number;
}

const defaultListed = 20;

/**
 * Counts what is there, and names what waits for somebody: at most `list` keys, 20 unless given. Reads the whole table of keys:
 * for people, and for polls that are minutes apart.
 */
export async function status(
  place: OpsPlace,
  { list = defaultListed }: { readonly list?: number } = {},
): Promise<StoreStatus> {
  const rows = await read<StatusRow>(place, "status", []);
  const sum = (name: "abandoned" | "unknown" | "set_aside" | "due" | "reapable"): number =>
    rows.reduce((total, row) => total + row[name], 0);
  const longest = (name: "abandoned_for_ms" | "due_for_ms"): number | undefined => {
    const known = rows.flatMap((row) => row[name] ?? []);
    return known.length === 0 ? undefined : Math.round(Math.max(...known));
  };
  return {
    keys: rows.map(({ state, guarantee, keys }) => ({ state, guarantee, keys })),
    abandoned: sum("abandoned"),
    oldestAbandonedMs: longest("abandoned_for_ms"),
    unknown: sum("unknown"),
    setAside: sum("set_aside"),
    due: sum("due"),
    oldestDueMs: longest("due_for_ms"),
    reapable: sum("reapable"),
    outbox: await outboxStats(place),
    waiting: await waitingKeys(place, list),
  };
}

async function waitingKeys(place: OpsPlace, list: number): Promise<readonly WaitingKey[]> {
  const rows = await read<WaitingRow>(place, "needs-operator", [list]);
  return rows.map(({ scope, key, state, method, path, created_at_ms }) => ({
    scope,
    key,
    standing: state === "parked" ? "set_aside" : "unknown",
    method,
    path,
    createdAt: new Date(created_at_ms),
  }));
}
