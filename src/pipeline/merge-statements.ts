/**
 * The two drivers that reach Spark, as functions that run a statement. Owns: waiting until a statement has ended, and giving
 * its handle back. Drivers come in by their shape, so that neither has to be installed for the other.
 */
import { systemClock } from "../core/clock.js";
import type { RunStatement } from "./merge-engine.js";

/** What is used of a session of `@databricks/sql` (`IDBSQLSession`). */
export interface DatabricksSession {
  executeStatement(text: string): Promise<{
    fetchAll(): Promise<object[]>;
    close(): Promise<unknown>;
  }>;
}

/** Runs statements on a session of `@databricks/sql`, which answers when they have ended. */
export function databricksStatements(session: DatabricksSession): RunStatement {
  return async (text) => {
    const operation = await session.executeStatement(text);
    try {
      return (await operation.fetchAll()) as Readonly<Record<string, unknown>>[];
    } finally {
      await operation.close();
    }
  };
}

interface HiveOperation {
  close(): Promise<unknown>;
}

/** What is used of a session of hive-driver (`IHiveSession`). */
export interface HiveSession<Operation extends HiveOperation> {
  executeStatement(text: string, options: { runAsync: boolean }): Promise<Operation>;
}

/** What is used of hive-driver's `HiveUtils`. */
export interface HiveUtils<Operation extends HiveOperation> {
  // Its type is that of the driver.
  waitUntilReady(
    operation: Operation,
    progress: boolean,
    callback: () => Promise<void>,
  ): Promise<unknown>;
  fetchAll(operation: Operation): Promise<unknown>;
  getResult(operation: Operation): { getValue(): unknown };
}

/** Between two questions whether a statement has ended. The driver itself would ask without a pause. */
const pollMs = 50;

/** Runs statements on a session of hive-driver, against Spark's Thrift Server; one after the other on one session. */
export function hiveStatements<Operation extends HiveOperation>(
  session: HiveSession<Operation>,
  tools: HiveUtils<Operation>,
): RunStatement {
  return async (text) => {
    const operation = await session.executeStatement(text, { runAsync: true });
    try {
      await tools
        .waitUntilReady(operation, false, () => systemClock.sleep(pollMs))
        .catch((error: unknown) => {
          throw withReason(error);
        });
      await tools.fetchAll(operation);
      const rows = tools.getResult(operation).getValue();
      return Array.isArray(rows) ? (rows as Readonly<Record<string, unknown>>[]) : [];
    } finally {
      await operation.close();
    }
  };
}

/** The driver says that a statement failed, and keeps the server's reason in the response. */
function withReason(error: unknown): unknown {
  const { response } = error as { readonly response?: { readonly errorMessage?: unknown } };
  return typeof response?.errorMessage === "string"
    ? new Error(response.errorMessage, { cause: error })
    : error;
}
