/**
 * How a Node response is taken over. Owns: replacing its methods, and what `writeHead` does to its headers. Knows nothing of
 * recording.
 */
import type { OutgoingHttpHeader, OutgoingHttpHeaders, ServerResponse } from "node:http";

const replaced = [
  "write",
  "end",
  "writeHead",
  "flushHeaders",
  "emit",
  "writeEarlyHints",
  "writeProcessing",
  "addTrailers",
  "destroy",
  "detachSocket",
] as const;
type Replaced = (typeof replaced)[number];
type Method = (...args: readonly unknown[]) => unknown;

export interface ReplacedMethods {
  /** Calls the method as it was before. */
  original(name: Replaced, ...args: readonly unknown[]): unknown;
  /** Puts all methods back, and with them away what others have laid over ours since. */
  restore(): void;
}

export function replaceMethods(
  res: ServerResponse,
  methods: Record<Replaced, Method>,
): ReplacedMethods {
  const own = replaced.map((name) => [name, Object.getOwnPropertyDescriptor(res, name)] as const);
  const before = new Map(replaced.map((name) => [name, res[name] as Method]));
  for (const name of replaced) {
    Object.defineProperty(res, name, { value: methods[name], writable: true, configurable: true });
  }
  return {
    original: (name, ...args) => {
      // Node tells a missing argument from an undefined one in some of these.
      const given = args.slice(0, args.findLastIndex((arg) => arg !== undefined) + 1);
      return before.get(name)?.apply(res, given);
    },
    restore: () => {
      for (const [name, descriptor] of own) {
        if (descriptor === undefined) delete (res as Partial<ServerResponse>)[name];
        else Object.defineProperty(res, name, descriptor);
      }
    },
  };
}

/** As writeHead of Node does: an object sets, a flat array (or one of pairs) replaces and keeps repetitions. */
export function applyHeaders(res: ServerResponse, headers: unknown): void {
  if (headers === undefined || headers === null) return;
  if (!Array.isArray(headers)) {
    for (const [name, value] of Object.entries(headers as OutgoingHttpHeaders)) {
      if (value !== undefined) res.setHeader(name, value);
    }
    return;
  }
  const pairs = toPairs(headers as unknown[]);
  for (const [name] of pairs) res.removeHeader(name);
  for (const [name, value] of pairs) {
    const there = res.getHeader(name);
    const all = there === undefined ? [] : Array.isArray(there) ? there : [String(there)];
    const more = Array.isArray(value) ? value : [String(value)];
    res.setHeader(name, there === undefined ? value : [...all, ...more]);
  }
}

function toPairs(list: readonly unknown[]): [string, OutgoingHttpHeader][] {
  if (Array.isArray(list[0])) return list as [string, OutgoingHttpHeader][];
  if (list.length % 2 !== 0)
    throw nodeError("ERR_INVALID_ARG_VALUE", "A flat array of headers needs an even length");
  const pairs: [string, OutgoingHttpHeader][] = [];
  for (let index = 0; index < list.length; index += 2) {
    pairs.push([String(list[index]), list[index + 1] as OutgoingHttpHeader]);
  }
  return pairs;
}

export function nodeError(code: string, message: string): Error {
  return Object.assign(new Error(message), { code });
}
