/**
 * What a sink is told and what it answers: the types that the Postgres sink, the merge sink, the ingest and the sources share.
 * Owns: their meaning. Must never depend on an engine or a driver.
 */

/** Where rows go and what makes two of them the same. One description serves every engine. */
export interface SinkDescription {
  /** `orders`, or with its schema `sales.orders`; exactly as it is spelt in the catalog, without quotation marks. */
  readonly table: string;
  /** The column, or columns, that name the business event. A unique index on exactly these must exist. */
  readonly key: string | readonly string[];
  /** All columns that are written, those of `key` and `version` among them. */
  readonly columns: readonly string[];
  /** What becomes of a row whose key is there already: it is dropped, or it takes the old one's place. */
  readonly onDuplicate: "ignore" | "overwrite";
  /**
   * A column that grows with every change of the event, such as a sequence of the source or the time of the change. An older
   * event never overwrites a newer one; of two with equal versions the same one wins in whatever order they come. Only with
   * `overwrite`.
   */
  readonly version?: string;
}

/** What became of the rows of a batch. The four add up to the rows that were not set aside. */
export interface BatchCounts {
  /** Keys that were not there before. */
  readonly inserted: number;
  /** Keys whose row was replaced. */
  readonly updated: number;
  /** Keys whose row stayed: `ignore`, an equal row, or one that is not older. */
  readonly unchanged: number;
  /** Rows beyond the one that was kept of each key in the batch. */
  readonly duplicatesInBatch: number;
}

/** A row as a sink takes it: values by the names of columns. `undefined`, and a name that is missing, mean NULL. */
export type SinkRow = Readonly<Record<string, unknown>>;

/** A row that cannot be stored. It was set aside, and the rest of its batch goes on. */
export interface BadRow<Row = SinkRow> {
  readonly row: Row;
  /** Its place among the rows that were written, from 1. */
  readonly rowNumber: number;
  /** The key's columns as they were given, or undefined where they could not be read. */
  readonly key: Readonly<Record<string, unknown>> | undefined;
  /** The column at fault, where it is known. */
  readonly column: string | undefined;
  /** Why, in one sentence, without the value. */
  readonly reason: string;
}

/** Runs a statement of the user on the session that holds a batch's transaction. */
export interface BatchQueryResult {
  readonly rows: readonly unknown[];
  readonly rowCount: number | null;
}

/** An open batch, as `inTransaction` sees it. */
export interface SinkBatch<Row = SinkRow> {
  readonly query: (text: string, values?: readonly unknown[]) => Promise<BatchQueryResult>;
  /** One row of each key, without those that were set aside. */
  readonly rows: readonly Row[];
  /** Quoted name of a temporary table that holds these rows, with the description's columns. */
  readonly staged: string;
  /** Quoted name of the table they go to. */
  readonly table: string;
  readonly batchId: string;
}

/**
 * Runs in the batch's own transaction, after its rows are staged and before they are upserted, so that it can still join the
 * old rows. What it throws rolls the batch back. It runs again where the transaction is tried again, and in one that is rolled
 * back where the server has refused a row and the others are looked through.
 */
export type InTransaction<Row = SinkRow> = (batch: SinkBatch<Row>) => Promise<void>;

/** The identity of one batch. */
export interface BatchOptions {
  /**
   * A name for these very rows. The same name again writes nothing and answers the counts of the first time, for as long as
   * the ledger keeps them. Default: a new one.
   */
  readonly batchId?: string;
}
