/**
 * What operators and the reconcile hook do to keys, on Postgres. Every settlement is recorded with who and why, in the
 * statement that makes it.
 */
import type { Operations } from "../core/operations-port.js";
import type { Connections } from "./connections.js";
import { toHead } from "./rows.js";
import type { Statements } from "./sql-text.js";

export function createOperations(connections: Connections, statements: Statements): Operations {
  const settle = async (
    name: "resolve-completed" | "resolve-not-executed" | "retry" | "forget",
    values: readonly unknown[],
  ): Promise<"ok" | "refused"> => {
    const settled = await connections.run(statements[name], values);
    return settled.length === 1 ? "ok" : "refused";
  };
  return {
    resolveCompleted: ({ scope, key, token }, response, windows, { by, why }) =>
      settle("resolve-completed", [
        scope,
        key,
        token,
        response.status,
        toHead(response),
        response.body,
        windows.replayWindowMs,
        windows.dedupeWindowMs,
        by,
        why,
      ]),
    resolveNotExecuted: ({ scope, key, token }, { by, why }) =>
      settle("resolve-not-executed", [scope, key, token, by, why]),
    retry: ({ scope, key, token }, { by, why }) => settle("retry", [scope, key, token, by, why]),
    forget: ({ scope, key }, { by, why }) => settle("forget", [scope, key, by, why]),
  };
}
