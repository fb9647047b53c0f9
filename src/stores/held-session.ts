/**
 * Transactions of mappers whose only way to one is a callback, turned inside out: the callback is held until somebody has
 * decided. Owns: that a held transaction always ends, and that only an answer of the server counts as a failed commit.
 */
import { IdempotencyError } from "../core/errors.js";
import type {
  SessionSettings,
  SqlResult,
  SqlSession,
  SqlStatement,
  TransactionAdapter,
} from "../core/sql-session.js";
import { isAnswered } from "./sql-state.js";
import { limitGraceMs, within } from "./time-limit.js";

/** How one mapper begins a transaction, and how it runs a statement in it. */
export interface CallbackDriver<Tx extends object> {
  /** Calls `work` in a new transaction; commits when it resolves, rolls back and rejects when it rejects. */
  begin(work: (tx: Tx) => Promise<void>, settings: SessionSettings): Promise<unknown>;
  query(tx: Tx, statement: SqlStatement, values: readonly unknown[]): Promise<SqlResult>;
  /** The handler's view, where the mapper itself would let it do what it must not. */
  guard?(tx: Tx, isEnded: () => boolean): Tx;
}

/** Makes an adapter of such a mapper. */
export function heldTransactions<Tx extends object>(
  driver: CallbackDriver<Tx>,
): TransactionAdapter<Tx> {
  return { open: (settings) => openHeldSession(driver, settings) };
}

type Ended = { readonly kind: "resolved" } | { readonly kind: "rejected"; readonly cause: unknown };

async function openHeldSession<Tx extends object>(
  driver: CallbackDriver<Tx>,
  settings: SessionSettings,
): Promise<SqlSession<Tx>> {
  const { timeoutMs } = settings;
  let decide: (decision: "commit" | "rollback") => void = () => undefined;
  const decision = new Promise<"commit" | "rollback">((resolve) => (decide = resolve));
  let opened: (open: { readonly tx: Tx }) => void = () => undefined;
  const opening = new Promise<{ readonly tx: Tx }>((resolve) => (opened = resolve));

  const hold = async (tx: Tx): Promise<void> => {
    // In an object: a promise would take a transaction that can be awaited for a promise.
    opened({ tx });
    if ((await decision) === "rollback") throw new Error("oncekey rolls this transaction back");
  };
  const run = async (): Promise<Ended> => {
    try {
      await driver.begin(hold, settings);
      return { kind: "resolved" };
    } catch (cause) {
      return { kind: "rejected", cause };
    }
  };
  const ended = run();
  const neverOpened = ended.then((end) => {
    throw end.kind === "rejected" ? end.cause : new Error("the transaction ended before it began");
  });
  // It also ends after it was opened; then nobody asks.
  neverOpened.catch(() => undefined);

  let isEnded = false;
  let isLost = false;
  const { tx } = await within(Promise.race([opening, neverOpened]), timeoutMs).catch(
    (error: unknown) => {
      // Where it opens later all the same, it ends at once.
      decide("rollback");
      throw error;
    },
  );
  return {
    tx: driver.guard?.(tx, () => isEnded) ?? tx,
    query: async (statement, values) => {
      try {
        return await within(driver.query(tx, statement, values), timeoutMs + limitGraceMs);
      } catch (error) {
        isLost ||= !isAnswered(error);
        throw error;
      }
    },
    commit: async () => {
      isEnded = true;
      decide("commit");
      const end = await within(ended, timeoutMs).catch((cause: unknown): Ended => ({
        kind: "rejected",
        cause,
      }));
      // No mapper shows the server's tag, and COMMIT of an aborted transaction succeeds as well.
      if (end.kind === "resolved") return { kind: "unconfirmed" };
      const { cause } = end;
      return { kind: isAnswered(cause) ? "rolled_back" : "unknown", cause };
    },
    rollback: async () => {
      if (isEnded) return;
      isEnded = true;
      decide("rollback");
      // There is nobody to hear ROLLBACK; the mapper gives its connection up when it has noticed.
      if (!isLost) await within(ended, timeoutMs).catch(() => undefined);
    },
  };
}

/**
 * A view of a transaction that refuses to end it, by the names given, and to be used after its end. For classes without
 * private fields.
 */
export function guarded<Tx extends object>(
  tx: Tx,
  isEnded: () => boolean,
  refused: readonly string[] = [],
): Tx {
  return new Proxy(tx, {
    get(target, property) {
      if (isEnded())
        throw new IdempotencyError("transaction_ended", { detail: "tx was used after its end." });
      if (refused.includes(String(property))) return refuse;
      return Reflect.get(target, property, target) as unknown;
    },
    apply(target, self, args: unknown[]) {
      if (isEnded())
        throw new IdempotencyError("transaction_ended", { detail: "tx was used after its end." });
      return Reflect.apply(target as (...all: unknown[]) => unknown, self, args);
    },
  });
}

function refuse(): never {
  throw new IdempotencyError("transaction_ended");
}

/** A pool of pg, as far as it tells of clients that leave it. */
export interface AcquiringPool {
  on(event: "acquire", listener: (client: ListeningClient) => void): unknown;
}

interface ListeningClient {
  on(event: "error", listener: () => void): unknown;
  listeners(event: "error"): readonly unknown[];
}

/**
 * Gives every client that leaves the pool a listener. Without one a connection that is lost inside a transaction, between
 * two statements, ends the process: an `error` event that nobody listens to.
 */
export function listenForLoss(pool: AcquiringPool): void {
  // Every route may make an adapter of its own.
  if (watched.has(pool)) return;
  watched.add(pool);
  pool.on("acquire", (client) => {
    if (!client.listeners("error").includes(onLoss)) client.on("error", onLoss);
  });
}

const watched = new WeakSet<AcquiringPool>();

/** The next statement rejects with what happened. */
function onLoss(): void {}
