/**
 * How V8 sees the requests and responses of a framework. Owns: one trick that changes nothing that a program can see.
 *
 * Express changes the prototype of every request and response. From then on, in V8, each property that is added to one gives it a
 * hidden class of its own (some 5 µs and a kilobyte), and every access to it misses every inline cache: much of what a
 * request costs. An object that has lost a property keeps its properties in a table instead, adds and finds them in a
 * fraction of that, and shares its hidden class with all others like it. Measured by `npm run bench`.
 */
import type { IncomingMessage, ServerResponse } from "node:http";

/** Own properties that Node sets at once and that nothing minds being the last ones. */
const anyOfRequest = "_dumped";
const anyOfResponse = "_sent100";

export function tabulateRequest(req: IncomingMessage): void {
  tabulate(req as object as Record<string, unknown>, anyOfRequest);
}

export function tabulateResponse(res: ServerResponse): void {
  tabulate(res as object as Record<string, unknown>, anyOfResponse);
}

function tabulate(object: Record<string, unknown>, name: string): void {
  if (!Object.hasOwn(object, name)) return;
  const value = object[name];
  // oxlint-disable-next-line typescript/no-dynamic-delete
  delete object[name];
  object[name] = value;
}
