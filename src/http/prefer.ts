/**
 * Reads what a client says of waiting: `Prefer: wait=10` (RFC 7240, section 4.3). Owns: how long a request waits for a running
 * one with its key. A preference is a wish: what is malformed or unknown is ignored and never refused.
 */
import type { ResolvedRoute } from "../core/options.js";

/** How long a request waits, and what of its wish is honoured. */
export interface Patience {
  readonly waitMs: number;
  /** For `Preference-Applied` (RFC 7240, section 3), in seconds; undefined where the client wished nothing or is not heard. */
  readonly appliedSeconds: number | undefined;
}

/**
 * The client's wish decides, up to the larger of `preferWaitMs` and the route's own `waitMs`: it may wait shorter than the
 * route would let it, and also where the route lets nobody wait.
 */
export function patienceOf(
  route: Pick<ResolvedRoute, "concurrent" | "preferWaitMs">,
  prefer: readonly string[],
): Patience {
  const ofRouteMs = route.concurrent === "reject" ? 0 : route.concurrent.waitMs;
  const isHeard = prefer.length > 0 && route.preferWaitMs > 0;
  const seconds = isHeard ? preferredWait(prefer) : undefined;
  if (seconds === undefined) return { waitMs: ofRouteMs, appliedSeconds: undefined };
  const waitMs = Math.min(seconds * 1_000, Math.max(route.preferWaitMs, ofRouteMs));
  return { waitMs, appliedSeconds: Math.ceil(waitMs / 1_000) };
}

/** List items, cut at commas outside of quoted strings; a quotation mark that is never closed takes the rest with it. */
const items = /(?:[^,"]|"(?:[^"\\]|\\.)*"?)+/gs;
/** A preference's name and value, with whatever parameters behind them (RFC 7240, section 2). */
const preference =
  /^[ \t]*([!#$%&'*+.^_`|~\w-]+)(?:[ \t]*=[ \t]*(?:([!#$%&'*+.^_`|~\w-]+)|"((?:[^"\\]|\\.)*)"))?[ \t]*(?:;.*)?$/s;

/** Seconds of the `wait` preference in all Prefer lines of a request; undefined where there is none that can be read. */
export function preferredWait(lines: readonly string[]): number | undefined {
  for (const [item] of lines.join(",").matchAll(items)) {
    const [, name, token, quoted] = preference.exec(item) ?? [];
    if (name?.toLowerCase() !== "wait") continue;
    // Only the first one of a name counts, whether or not it can be read.
    const value = token ?? quoted?.replaceAll(/\\(.)/gs, "$1") ?? "";
    return /^\d+$/.test(value) ? Number(value) : undefined;
  }
  return undefined;
}
