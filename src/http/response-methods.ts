/**
 * How a Node response is taken over. Owns: replacing its methods, and what `writeHead` does to its headers. Knows nothing of
 * recording.
 */
import { ServerResponse } from "node:http";
import type { OutgoingHttpHeader, OutgoingHttpHeaders } from "node:http";

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
  "assignSocket",
] as const;
type Replaced = (typeof replaced)[number];
type Method = (...args: readonly unknown[]) => unknown;
type Methods = Readonly<Record<Replaced, Method>>;

/** What the methods of a response do while somebody holds it. */
export type ResponseHolder = Methods & {
  /** What `writableEnded` tells. */
  readonly isEnded: () => boolean;
};

const holder = Symbol("oncekey holder");

interface Held {
  [holder]: ResponseHolder;
}

/** The same functions for every response: closures would be most of what a held one weighs. */
const methods = Object.fromEntries(
  replaced.map((name) => {
    const handOver = function (this: Held, ...args: readonly unknown[]): unknown {
      return this[holder][name](...args);
    };
    return [name, handOver];
  }),
) as Methods;

const writableEnded: PropertyDescriptor & ThisType<Held> = {
  get() {
    return this[holder].isEnded();
  },
  configurable: true,
  enumerable: true,
};

/**
 * A response whose methods are its holder's. They are set on the response itself: sub-apps of Express change its prototype
 * while it is held.
 */
export class HeldMethods {
  readonly #res: ServerResponse;
  /** Where Node's own methods are, or those that a framework has put in their place for all its responses. */
  readonly #prototype: Methods;
  /** What middleware in front had laid over the response's methods. */
  readonly #laidOver: readonly LaidOver[];

  constructor(res: ServerResponse, by: ResponseHolder) {
    this.#res = res;
    this.#prototype = Object.getPrototypeOf(res) as Methods;
    this.#laidOver = laidOver(res);
    for (const { name } of this.#laidOver)
      Object.defineProperty(res, name, { value: undefined, writable: true });
    Object.assign(res, methods, { [holder]: by });
    Object.defineProperty(res, "writableEnded", writableEnded);
  }

  /** Calls the method as it was before. Node tells a missing argument from an undefined one in some of these. */
  original(name: Replaced, args: readonly unknown[]): unknown {
    let count = args.length;
    while (count > 0 && args[count - 1] === undefined) count -= 1;
    const given = count === args.length ? args : args.slice(0, count);
    return Reflect.apply(this.#before(name), this.#res, given);
  }

  /** Takes the method again from what was laid over ours since. */
  takeAgain(name: Replaced): void {
    (this.#res as unknown as Record<string, Method>)[name] = methods[name];
  }

  /** True where the method of before is Node's own: others may read their arguments in another way. */
  isNodes(name: Replaced): boolean {
    return this.#before(name) === (ServerResponse.prototype as unknown as Methods)[name];
  }

  #before(name: Replaced): Method {
    if (this.#laidOver !== nothing)
      for (const over of this.#laidOver) if (over.name === name) return over.method;
    return this.#prototype[name];
  }

  /** Puts all methods back, and with them away what others have laid over ours since. */
  restore(): void {
    const res = this.#res as Partial<ServerResponse>;
    for (const name of replaced) delete res[name];
    delete (res as { writableEnded?: boolean }).writableEnded;
    for (const { name, descriptor } of this.#laidOver) Object.defineProperty(res, name, descriptor);
  }
}

interface LaidOver {
  readonly name: Replaced;
  readonly descriptor: PropertyDescriptor;
  readonly method: Method;
}

const nothing: readonly LaidOver[] = [];

function laidOver(res: ServerResponse): readonly LaidOver[] {
  if (!replaced.some((name) => Object.hasOwn(res, name))) return nothing;
  return replaced.flatMap((name) => {
    const descriptor = Object.getOwnPropertyDescriptor(res, name);
    if (descriptor === undefined) return [];
    return [{ name, descriptor, method: (res as unknown as Methods)[name] }];
  });
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
