/**
 * Values that may be there already. Owns: going on at once with those that are, so that a request which nothing keeps waiting
 * is answered in the turn in which it came.
 */

export type Awaitable<Value> = Value | PromiseLike<Value>;

export function isReady<Value>(value: Awaitable<Value>): value is Value {
  return typeof (value as { readonly then?: unknown } | null | undefined)?.then !== "function";
}

/** Hands the value to `next`, at once where it is there. Throws where `next` does, and rejects where that comes later. */
export function whenReady<Value, Result>(
  value: Awaitable<Value>,
  next: (value: Value) => Awaitable<Result>,
): Awaitable<Result> {
  // A caller's continuation is what this is about, and the two compilers disagree on what is left of the type.
  // oxlint-disable-next-line promise/no-callback-in-promise, typescript/no-unnecessary-type-assertion
  return isReady(value) ? next(value) : (value as PromiseLike<Value>).then(next);
}
