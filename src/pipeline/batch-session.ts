/**
 * A connection of the sink while it holds one batch's transaction. Owns: that the connection goes back only when it is as it was,
 * and that a COMMIT counts only with the server's tag.
 */
import type { Pool, PoolClient, QueryResult } from "pg";
import { takesOneWrite, writeTogether } from "../stores/one-write.js";
import type { WireAnswer, WireStatement } from "../stores/one-write.js";
import { isAnswered } from "../stores/sql-state.js";
import { limitGraceMs, within } from "../stores/time-limit.js";
import { copyIn, takesCopy } from "./copy-in.js";

/** Statements failed; `index` is the first that was not answered. */
export class BatchFault extends Error {
  readonly index: number;

  constructor(index: number, cause: unknown) {
    super("a statement of the batch failed", { cause });
    this.name = "BatchFault";
    this.index = index;
  }
}

/** `unknown`: the reply to COMMIT was lost. */
export type BatchEnd =
  | { readonly kind: "committed" }
  | { readonly kind: "refused"; readonly cause: unknown }
  | { readonly kind: "unknown"; readonly cause: unknown };

/** The planner would read a small table, or believe a staging table huge; durability is never lowered. */
const settings = (isLocal: boolean): string => `
  SELECT set_config('plan_cache_mode', 'force_custom_plan', ${isLocal}),
    set_config('enable_seqscan', 'off', ${isLocal}), set_config('jit', 'off', ${isLocal}),
    CASE WHEN current_setting('synchronous_commit') IN ('off', 'local', 'remote_write')
      THEN set_config('synchronous_commit', 'on', ${isLocal}) END`;

const beginText = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

export interface SessionOptions {
  readonly pool: Pool;
  readonly timeoutMs: number;
  readonly pooler: "transaction" | undefined;
}

const ready = new WeakSet<PoolClient>();

export class BatchSession {
  readonly #client: PoolClient;
  readonly #options: SessionOptions;
  #isLost = false;
  #isOpen = false;

  private constructor(client: PoolClient, options: SessionOptions) {
    this.#client = client;
    this.#options = options;
  }

  /** The connection is of no more use, and what became of its transaction is the ledger's to say. */
  get isLost(): boolean {
    return this.#isLost;
  }

  static async open(options: SessionOptions): Promise<BatchSession> {
    const client = await options.pool.connect();
    client.on("error", onError);
    const session = new BatchSession(client, options);
    try {
      if (!takesOneWrite(client) || !takesCopy(client))
        throw new TypeError("upsertSink needs a pool of pg's own client, which COPY goes through");
      if (options.pooler === undefined && !ready.has(client)) {
        await session.#look(within(client.query(settings(false)), options.timeoutMs));
        ready.add(client);
      }
      return session;
    } catch (error) {
      session.release();
      throw error;
    }
  }

  /** Begins, and runs the statements in the same write. */
  async begin(statements: readonly WireStatement[]): Promise<readonly WireAnswer[]> {
    const { pooler, timeoutMs } = this.#options;
    const local = `SELECT set_config('statement_timeout', '${timeoutMs}', true),
      set_config('idle_in_transaction_session_timeout', '${timeoutMs}', true)`;
    const first = pooler === undefined ? [beginText] : [beginText, settings(true), local];
    this.#isOpen = true;
    const answers = await this.run(
      [...first.map((text) => ({ text, values: [] })), ...statements],
      first.length,
    );
    return answers.slice(first.length);
  }

  /** Runs statements in one write. @throws {@link BatchFault} */
  async run(statements: readonly WireStatement[], skipped = 0): Promise<readonly WireAnswer[]> {
    const limitMs = this.#options.timeoutMs + limitGraceMs;
    const written = await writeTogether(this.#client, statements, limitMs);
    if (written.kind === "answered") return written.answers;
    this.#isLost ||= !isAnswered(written.cause);
    throw new BatchFault(written.answered - skipped, written.cause);
  }

  copy(text: string, bytes: Buffer): Promise<number> {
    return this.#look(copyIn(this.#client, text, bytes, this.#options.timeoutMs + limitGraceMs));
  }

  /** For statements of the user. */
  query(text: string, values: readonly unknown[]): Promise<QueryResult> {
    const { timeoutMs } = this.#options;
    return this.#look(within(this.#client.query(text, [...values]), timeoutMs + limitGraceMs));
  }

  /** Runs a last statement and commits, in one write. Never rejects. */
  async commit(last: WireStatement): Promise<BatchEnd> {
    try {
      const answers = await this.run([last, { text: "COMMIT", values: [] }]);
      this.#isOpen = false;
      const tag = answers[1]?.tag;
      if (tag === "COMMIT") return { kind: "committed" };
      return {
        kind: "refused",
        cause: new Error(`the transaction ended with ${tag ?? "nothing"}`),
      };
    } catch (error) {
      const { cause } = error as BatchFault;
      return { kind: isAnswered(cause) ? "refused" : "unknown", cause };
    }
  }

  /** Never rejects: a connection that cannot roll back is given up, and its transaction with it. */
  async rollback(): Promise<void> {
    if (!this.#isOpen || this.#isLost) return;
    const { timeoutMs } = this.#options;
    await this.#look(within(this.#client.query("ROLLBACK"), timeoutMs)).then(
      () => (this.#isOpen = false),
      () => (this.#isLost = true),
    );
  }

  release(): void {
    this.#client.removeListener("error", onError);
    this.#client.release(this.#isLost || this.#isOpen);
  }

  async #look<T>(work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (error) {
      this.#isLost ||= !isAnswered(error);
      throw error;
    }
  }
}

/** The statement under way, or the next one, rejects with what happened. */
function onError(): void {}
