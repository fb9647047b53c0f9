/**
 * Hints from other processes that a key may have ended. Owns: one line to a server, opened when somebody watches, kept right
 * while watched keys come and go, opened again when it is lost, and closed when nobody has watched for a while. A hint only
 * saves time: whenever one may have been missed, the watcher is told to look for itself.
 */
import type { Clock } from "../core/clock.js";
import type { Watch } from "../core/ports.js";

/** A connection that hints come through. */
export interface HintLine {
  /** Subscribes. Answers the names whose hints come from now on; the others are tried again. */
  add(names: readonly string[]): Promise<readonly string[]>;
  remove(names: readonly string[]): Promise<unknown>;
  close(): void;
}

export interface HintsOptions {
  /** Opens the line. `onHint` is called with a name, `onLost` once when the line is of no use any more. */
  readonly open: (onHint: (name: string) => void, onLost: () => void) => Promise<HintLine>;
  readonly clock: Pick<Clock, "idle">;
}

export interface Hints {
  /** `onHint` is called with each hint, and whenever one may have been missed: when the line stands, and when it is lost. */
  watch(name: string, onHint: () => void): Watch;
  close(): void;
}

/** What is subscribed to at one time costs the server memory; waiters for further keys look more often instead. */
const maxNames = 256;
/** An idle line is one connection. Closing it at once would open one for every second waiter. */
const idleMs = 10_000;
/** After a failure, and where a name was not granted; doubled up to the longest. */
const firstPauseMs = 10;
const longestPauseMs = 5_000;

export function createHints(options: HintsOptions): Hints {
  const watched = new Map<string, Set<() => void>>();
  const standing = new Set<string>();
  let line: HintLine | undefined;
  const closing = new AbortController();
  let isWorking = false;
  /** Ends the pause under way. */
  let change = new AbortController();

  const tell = (name: string): void => {
    for (const onHint of watched.get(name) ?? []) onHint();
  };
  const nudge = (): void => {
    change.abort();
    if (!isWorking && !closing.signal.aborted) void work();
  };
  const lose = (): void => {
    const lost = [...standing];
    line?.close();
    line = undefined;
    standing.clear();
    lost.forEach(tell);
  };
  const openLine = async (): Promise<HintLine> => {
    let opened: HintLine | undefined;
    let isLost = false;
    opened = await options.open(tell, () => {
      isLost = true;
      if (opened !== undefined && line === opened) {
        lose();
        nudge();
      }
    });
    if (!isLost && !closing.signal.aborted) return opened;
    opened.close();
    throw new Error("the line was lost while it was opened");
  };

  /** Makes what stands what is watched. True when there is nothing left to do. */
  const adjust = async (): Promise<boolean> => {
    if (line === undefined && watched.size === 0) return true;
    line ??= await openLine();
    const current = line;
    const surplus = [...standing].filter((name) => !watched.has(name));
    for (const name of surplus) standing.delete(name);
    if (surplus.length > 0) await current.remove(surplus);
    const missing = [...watched.keys()]
      .filter((name) => !standing.has(name))
      .slice(0, maxNames - standing.size);
    const granted = missing.length === 0 ? [] : await current.add(missing);
    // Lost meanwhile: what was granted went with it.
    if (line !== current) return false;
    for (const name of granted) standing.add(name);
    // What ended before the subscription stood gave no hint.
    granted.forEach(tell);
    return granted.length === missing.length;
  };

  const work = async (): Promise<void> => {
    isWorking = true;
    for (let failures = 0; !closing.signal.aborted;) {
      change = new AbortController();
      const { signal } = change;
      const isDone = await adjust().catch(() => {
        lose();
        return false;
      });
      failures = isDone ? 0 : failures + 1;
      if (closing.signal.aborted) break;
      const isEmpty = watched.size === 0;
      if (isDone && !isEmpty && !hasWork()) break;
      if (isDone && !isEmpty) continue;
      const pauseMs = Math.min(longestPauseMs, firstPauseMs * 2 ** Math.min(failures, 12));
      await options.clock.idle(isEmpty ? idleMs : pauseMs, isEmpty ? signal : closing.signal);
      if (isEmpty && watched.size === 0 && !signal.aborted) break;
    }
    isWorking = false;
    if (watched.size === 0 || closing.signal.aborted) lose();
  };
  const hasWork = (): boolean =>
    [...standing].some((name) => !watched.has(name)) ||
    (standing.size < maxNames && [...watched.keys()].some((name) => !standing.has(name)));

  return {
    watch: (name, onHint) => {
      const listeners = watched.get(name) ?? new Set<() => void>();
      watched.set(name, listeners.add(onHint));
      nudge();
      return {
        isLive: () => standing.has(name) && watched.has(name),
        stop: () => {
          listeners.delete(onHint);
          if (listeners.size > 0 || watched.get(name) !== listeners) return;
          watched.delete(name);
          nudge();
        },
      };
    },
    close: () => {
      closing.abort();
      change.abort();
      if (!isWorking) lose();
    },
  };
}
