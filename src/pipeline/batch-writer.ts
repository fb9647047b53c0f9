/**
 * Writes batches: one transaction each, with a ledger row that says what it did. Owns: the choice between copying straight into
 * the table and staging, trying again, and finding the rows that the server refuses. Must never commit a batch twice, and never
 * guess whether one was committed: the ledger is asked, by an insert that waits for the transaction in doubt.
 */
import type { Pool } from "pg";
import { IdempotencyError } from "../core/errors.js";
import { pauseAfter } from "../core/retry.js";
import { asSchemaError } from "../stores/connections.js";
import type { WireAnswer, WireStatement } from "../stores/one-write.js";
import { isConflict, sqlStateOf } from "../stores/sql-state.js";
import { statementsFor } from "../stores/sql-text.js";
import { BatchFault, BatchSession } from "./batch-session.js";
import type { SinkTable } from "./catalog.js";
import type { BatchCounts } from "./description.js";
import { findRefused } from "./refused-rows.js";
import type { RefusedRow } from "./refused-rows.js";
import type { Places, RowBatch } from "./row-batch.js";
import type { ResolvedSink } from "./sink-options.js";
import { sinkSql } from "./sink-sql.js";
import type { SinkSql } from "./sink-sql.js";
import { runGuarded, stage, upsertStaged } from "./staging.js";
import type { StagedCounts } from "./staging.js";

/** A batch with its name in the ledger. */
export interface NamedBatch<Row extends object> {
  readonly rows: RowBatch<Row>;
  readonly batchId: string;
  /** Of the rows, where the name came from the user. */
  readonly digest: Buffer | undefined;
  /** Called with rows that the server refuses, before the others are committed. */
  readonly onRefused: (refused: readonly RefusedRow<Row>[]) => Promise<void>;
}

type Outcome =
  | { readonly kind: "written"; readonly counts: BatchCounts }
  /** Somebody else had just inserted one of the keys; the batch is staged instead. */
  | { readonly kind: "overtaken" }
  | { readonly kind: "refused"; readonly cause: unknown }
  /** Nothing was committed, or nobody knows; the same batch, tried again, finds out. */
  | { readonly kind: "again"; readonly cause: unknown };

/** After another process was faster with a key, this many batches are staged: it is likely to be so again. */
const stagedAfterOvertaken = 8;
const none: StagedCounts = { inserted: 0, updated: 0 };

export class BatchWriter<Row extends object> {
  readonly #options: ResolvedSink<Row>;
  readonly #own: Pool;
  readonly #table: SinkTable;
  readonly #sql: SinkSql;
  readonly #ledger: ReturnType<typeof statementsFor>;
  #stagedLeft = 0;

  constructor(options: ResolvedSink<Row>, own: Pool, table: SinkTable) {
    this.#options = options;
    this.#own = own;
    this.#table = table;
    this.#sql = sinkSql(table, options.onDuplicate, options.pooler);
    this.#ledger = statementsFor(options.schema);
  }

  /** Writes a batch, however often that has to be tried within `retryForMs`. */
  async write(batch: NamedBatch<Row>): Promise<BatchCounts> {
    const { clock, retryForMs } = this.#options;
    const startedMs = clock.monotonicMs();
    for (let tries = 0; ; tries += 1) {
      let outcome: Outcome | undefined = await this.#try(batch);
      if (outcome.kind === "written") return outcome.counts;
      if (outcome.kind === "refused") outcome = await this.#setAside(batch, outcome.cause);
      if (outcome?.kind === "overtaken") this.#stagedLeft = stagedAfterOvertaken;
      else if (outcome?.kind === "again") {
        const pauseMs = pauseAfter(tries, clock.random());
        if (clock.monotonicMs() - startedMs + pauseMs > retryForMs) throw gaveUp(outcome.cause);
        await clock.sleep(pauseMs);
      }
    }
  }

  async #try(batch: NamedBatch<Row>): Promise<Outcome> {
    let session: BatchSession | undefined;
    const isDirect = this.#isDirect(batch);
    try {
      session = await this.#open();
      return await this.#attempt(session, batch, isDirect);
    } catch (error) {
      await session?.rollback();
      return this.#judge(
        error,
        session === undefined ? !(error instanceof TypeError) : session.isLost,
        isDirect,
      );
    } finally {
      session?.release();
    }
  }

  #open(): Promise<BatchSession> {
    const { timeoutMs, pooler } = this.#options;
    return BatchSession.open({ pool: this.#own, timeoutMs, pooler });
  }

  async #attempt(
    session: BatchSession,
    batch: NamedBatch<Row>,
    isDirect: boolean,
  ): Promise<Outcome> {
    const rows = batch.rows.sorted();
    const { target } = this.#table;
    const enter = this.#statement("batch-begin", [target, batch.batchId, batch.digest ?? null]);
    const probe = isDirect ? [this.#probe(batch.rows, rows)] : [];
    const [entered, , shape, found] = await this.#begin(session, [
      enter,
      ...this.#sql.watch,
      ...probe,
    ]);
    if (entered?.rows.length === 0) {
      const counts = await this.#find(session, batch);
      return counts === undefined
        ? again("the ledger row of this batch was removed")
        : { kind: "written", counts };
    }
    checkShape(this.#table, shape);
    const duplicates = batch.rows.duplicates;
    const done =
      found === undefined
        ? await this.#stageAll(session, batch, rows)
        : await this.#copyNew(session, batch.rows, rows, found);
    const counts: BatchCounts = {
      inserted: done.inserted,
      updated: done.updated,
      unchanged: rows.length - done.ties - done.inserted - done.updated,
      duplicatesInBatch: duplicates + done.ties,
    };
    const end = await session.commit(
      this.#statement("batch-end", [
        target,
        batch.batchId,
        ...[counts.inserted, counts.updated, counts.unchanged, counts.duplicatesInBatch].map(
          String,
        ),
      ]),
    );
    if (end.kind === "committed") return { kind: "written", counts };
    if (end.kind === "unknown") return { kind: "again", cause: end.cause };
    await session.rollback();
    return this.#judge(end.cause, session.isLost, isDirect);
  }

  async #begin(
    session: BatchSession,
    statements: readonly WireStatement[],
  ): Promise<readonly WireAnswer[]> {
    try {
      return await session.begin(statements);
    } catch (error) {
      // The first is the ledger's; without its table the schema is not there.
      if (error instanceof BatchFault && error.index === 0) throw asSchemaError(error.cause);
      // The probe, which comes behind the shape: its keys are of a type that the column is not any more.
      if (sqlStateOf(error) === "42883") throw changed(this.#table, error);
      throw error;
    }
  }

  #isDirect({ rows }: NamedBatch<Row>): boolean {
    const { copyDirectly, inTransaction } = this.#options;
    if (this.#stagedLeft > 0) {
      this.#stagedLeft -= 1;
      return false;
    }
    return copyDirectly && this.#table.takesCopy && inTransaction === undefined && !rows.hasTies;
  }

  #probe(batch: RowBatch<Row>, rows: Places): WireStatement {
    return { text: this.#sql.probe, values: batch.keyArrays(rows) };
  }

  /**
   * What the probe did not see is copied straight into the table. A key that somebody inserts after the probe fails the copy on
   * the key's own index, and with it the transaction.
   */
  async #copyNew(
    session: BatchSession,
    batch: RowBatch<Row>,
    rows: Places,
    found: WireAnswer,
  ): Promise<StagedCounts & { readonly ties: number }> {
    const { fresh, old } = divide(rows, found.rows[0]?.[0]);
    if (fresh.length > 0) {
      const copied = await session.copy(this.#sql.copyDirect, batch.copyBytes(fresh));
      if (copied !== fresh.length) throw dropped(this.#table);
    }
    const { replace } = this.#sql;
    let updated = 0;
    if (replace !== undefined && old.length > 0) {
      await stage(session, this.#sql, batch.copyBytes(old));
      ({ updated } = await upsertStaged(session, { insertNew: undefined, replace }));
    }
    return { inserted: fresh.length, updated, ties: 0 };
  }

  async #stageAll(
    session: BatchSession,
    { rows: batch, batchId }: NamedBatch<Row>,
    rows: Places,
  ): Promise<StagedCounts & { readonly ties: number }> {
    if (rows.length === 0) return { ...none, ties: 0 };
    await stage(session, this.#sql, batch.copyBytes(rows));
    const ties = batch.hasTies ? await this.#dropTies(session, rows) : new Set<number>();
    await this.#runHook(session, { rows: batch, batchId }, rows, ties);
    const left = rows.length - ties.size;
    return { ...(await upsertStaged(session, this.#sql, left)), ties: ties.size };
  }

  async #runHook(
    session: BatchSession,
    { rows: batch, batchId }: Pick<NamedBatch<Row>, "rows" | "batchId">,
    rows: Places,
    ties: ReadonlySet<number>,
  ): Promise<void> {
    const { inTransaction } = this.#options;
    if (inTransaction === undefined) return;
    await runGuarded(session, (query) =>
      inTransaction({
        query,
        rows: [...rows].filter((_, index) => !ties.has(index)).map((place) => batch.rowAt(place)),
        staged: `pg_temp.${this.#sql.staged}`,
        table: this.#table.quoted,
        batchId,
      }),
    );
  }

  /** The places of rows that another row of their key beats. */
  async #dropTies(session: BatchSession, rows: Places): Promise<ReadonlySet<number>> {
    const { listStaged, dropTies } = this.#sql;
    if (dropTies === undefined) return new Set();
    const statements = [listStaged, dropTies].map((text) => ({ text, values: [] }));
    const [listed, gone] = await session.run(statements);
    const places = new Map(listed?.rows.map(([at], index) => [at, index]));
    if (places.size !== rows.length)
      throw new Error("the staging table has other rows than were copied");
    return new Set(gone?.rows.map(([at]) => places.get(at ?? null) as number));
  }

  /** What the ledger says of a batch that was committed before. */
  async #find(session: BatchSession, batch: NamedBatch<Row>): Promise<BatchCounts | undefined> {
    const find = this.#statement("batch-find", [this.#table.target, batch.batchId]);
    const [answer] = await session.run([find]);
    await session.rollback();
    const [digest, ...counts] = answer?.rows[0] ?? [];
    if (counts.length === 0) return undefined;
    if (batch.digest !== undefined && digest !== batch.digest.toString("hex"))
      throw new IdempotencyError("batch_reused");
    const [inserted, updated, unchanged, duplicatesInBatch] = counts.map(Number) as [
      number,
      number,
      number,
      number,
    ];
    return { inserted, updated, unchanged, duplicatesInBatch };
  }

  /** `isLost`: the connection is, so that nobody knows what the server would have said. */
  #judge(given: unknown, isLost: boolean, isDirect: boolean): Outcome {
    const error = given instanceof BatchFault ? given.cause : given;
    if (error instanceof IdempotencyError) throw error;
    const state = sqlStateOf(error);
    const { constraint, schema, table } = error as {
      readonly constraint?: unknown;
      readonly schema?: unknown;
      readonly table?: unknown;
    };
    // Only COPY meets its own index. Elsewhere it is a statement of the user, on whatever table.
    const isOwn = isDirect && `${String(schema)}.${String(table)}` === this.#table.target;
    if (state === "23505" && isOwn && this.#table.keyIndexes.includes(String(constraint)))
      return { kind: "overtaken" };
    // Another process entered the batch after the ledger row was reaped, or the two met in a way that needs another look.
    if (state === "23505" && constraint === "idempotency_batches_pkey") return again(error);
    if (this.#isRowFault(state)) return { kind: "refused", cause: error };
    if (isLost || isConflict(error) || isTransient(state)) return again(error);
    if (state === "42P01" || state === "42703") throw changed(this.#table, error);
    throw error;
  }

  /** Texts that the server casts can also be no name, or have no syntax of their type's own. */
  #isRowFault(state: string | undefined): boolean {
    const isCast = this.#table.columns.some((column) => column.isCast);
    return isRowFault(state) || (isCast && ["42601", "42602", "42704"].includes(state ?? ""));
  }

  /** Finds the rows that the server refuses, and goes on without them. */
  async #setAside(batch: NamedBatch<Row>, cause: unknown): Promise<Outcome | undefined> {
    let session: BatchSession | undefined;
    let refused: readonly RefusedRow<Row>[];
    try {
      const opened = (session = await this.#open());
      refused = await findRefused(opened, batch.rows, this.#sql, {
        begun: (shape) => checkShape(this.#table, shape),
        isRowFault: (state) => this.#isRowFault(state),
        prepare:
          this.#options.inTransaction === undefined
            ? undefined
            : (rows) => this.#prepare(opened, batch, rows),
      });
    } catch (error) {
      const isLost = session === undefined ? !(error instanceof TypeError) : session.isLost;
      const outcome = this.#judge(error, isLost, false);
      if (outcome.kind === "again") return outcome;
      throw cause;
    } finally {
      await session?.rollback();
      session?.release();
    }
    // It came from somewhere else, such as a statement of inTransaction.
    if (refused.length === 0) throw cause;
    await batch.onRefused(refused);
    batch.rows.remove(new Set(refused.map(({ place }) => place)));
    return undefined;
  }

  /** Rows may only be storable with what `inTransaction` writes before them. */
  async #prepare(session: BatchSession, batch: NamedBatch<Row>, rows: Places): Promise<void> {
    await stage(session, this.#sql, batch.rows.copyBytes(rows));
    const ties = batch.rows.hasTies ? await this.#dropTies(session, rows) : new Set<number>();
    await this.#runHook(session, batch, rows, ties);
    await session.run([{ text: this.#sql.clearStaged, values: [] }]);
  }

  #statement(
    name: "batch-begin" | "batch-end" | "batch-find",
    values: readonly unknown[],
  ): WireStatement {
    const { text, name: prepared } = this.#ledger[name];
    return { ...(this.#options.pooler === undefined ? { name: prepared } : {}), text, values };
  }
}

/** `found`: places of old rows, from 1, in any order. */
function divide(
  rows: Places,
  found: string | null | undefined,
): { readonly fresh: Places; readonly old: Places } {
  if (found === null || found === undefined) return { fresh: rows, old: new Int32Array(0) };
  const isOld = new Uint8Array(rows.length);
  for (const place of found.split(",")) isOld[Number(place) - 1] = 1;
  return {
    fresh: rows.filter((_, index) => isOld[index] === 0),
    old: rows.filter((_, index) => isOld[index] === 1),
  };
}

function again(cause: unknown): Outcome {
  return { kind: "again", cause };
}

/** Data exceptions, broken constraints, an option of a view, an index row that is too large, and what triggers raise. */
function isRowFault(state: string | undefined): boolean {
  return state !== undefined && (/^(22|23|44|54)/.test(state) || state === "P0001");
}

/** Time limits, locks, too many connections, no memory: the same batch can succeed later. */
function isTransient(state: string | undefined): boolean {
  return state !== undefined && /^(57014|55P03|53)/.test(state);
}

function gaveUp(cause: unknown): IdempotencyError {
  const code = isConflict(cause) ? "transaction_conflict" : "store_unavailable";
  return new IdempotencyError(code, { detail: "The batch could not be written in time.", cause });
}

function changed({ target }: SinkTable, cause: unknown): IdempotencyError {
  return new IdempotencyError("table_unsuitable", {
    detail: `The table ${target} has changed since the sink was opened.`,
    cause,
  });
}

/** @throws `table_unsuitable` where rows were encoded for another table than is there now */
function checkShape(table: SinkTable, answer: WireAnswer | undefined): void {
  if (answer?.rows[0]?.[0] !== table.shape) throw changed(table, undefined);
}

function dropped({ target }: SinkTable): IdempotencyError {
  return new IdempotencyError("table_unsuitable", {
    detail: `The table ${target} did not take every row that was copied into it.`,
  });
}
