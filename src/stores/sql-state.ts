/**
 * What an error says of the server, whichever driver or mapper it came through. Owns: telling an answer of the server, which
 * proves that a statement failed, from a reply that was lost.
 */

/** Wrapped more often than this, an error is not looked into. */
const maxDepth = 8;

/** The server's code of an error, or undefined where no server sent it. Codes of Node look alike (EPIPE), and are none. */
export function sqlStateOf(error: unknown): string | undefined {
  let current: unknown = error;
  for (let depth = 0; depth < maxDepth && isObject(current); depth += 1) {
    const { code, severity, originalCode } = current;
    // pg and postgres.js give a severity with every code that the server sent; adapters of Prisma call the code original.
    if (isState(code) && typeof severity === "string") return code;
    if (isState(originalCode)) return originalCode;
    current = current["driverError"] ?? adapterError(current) ?? current["cause"];
  }
  return undefined;
}

/** True where the server answered, and goes on answering: what it refused has not happened. */
export function isAnswered(error: unknown): boolean {
  const state = sqlStateOf(error);
  // Class 08 and 57P01 to 57P05 are sent by a server that is going away: its connection is lost all the same.
  return state !== undefined && !/^(08|57P0)/.test(state);
}

/** True for a serialization failure and for a deadlock: the same transaction, tried again, can succeed. */
export function isConflict(error: unknown): boolean {
  const state = sqlStateOf(error);
  return state === "40001" || state === "40P01";
}

function isState(code: unknown): code is string {
  return typeof code === "string" && /^[0-9A-Z]{5}$/.test(code);
}

/** Prisma's known errors carry the error of their driver adapter in `meta`. */
function adapterError(error: Record<string, unknown>): unknown {
  const { meta } = error;
  return isObject(meta) ? meta["driverAdapterError"] : undefined;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}
