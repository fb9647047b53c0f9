/**
 * The two ways in which a transaction claims a key. Owns: what its first and its last statements are, and how their answers are
 * read. `atOnce` writes the record first and the response later, as take-overs do, whose record is there; it works everywhere.
 * `withResponse` writes both in one: half the rows, and no COMMIT but the store's can pass. It needs READ COMMITTED, where a statement
 * sees what was committed before it, and several statements in one round trip, or it would be the slower one.
 */
import { IdempotencyError } from "../core/errors.js";
import type { Claim, ClaimRequest, Completion, KeyRecord, StoredResponse } from "../core/record.js";
import type { SqlResult } from "../core/sql-session.js";
import type { Carried } from "./carrying.js";
import { askedValues, takeOverValues, txClaimValues } from "./postgres-claims.js";
import { lockHash, toHead } from "./rows.js";
import { sqlStateOf } from "./sql-state.js";
import type { Statements } from "./sql-text.js";

/** What a claim was given, and how its transaction ends. */
export interface Won {
  readonly token: number;
  readonly attempt: number;
  /** The statements that store a response. An error of theirs must keep COMMIT from committing: it can be behind them already. */
  store(claim: Claim, completion: Answered, waitHash: string): readonly Carried[];
}

/** A completion that has a response to store. */
export interface Answered extends Completion {
  readonly response: StoredResponse;
}

export interface TransactionClaiming {
  /** What tx-begin.sql is to claim. */
  readonly key: readonly (string | null)[];
  /** Behind tx-begin.sql. */
  readonly opening: readonly Carried[];
  /** By what tx-begin.sql and those behind it answered; undefined where the key was not claimed. */
  readonly won: (begun: SqlResult, opened: readonly SqlResult[]) => Won | undefined;
}

/** Of tx-begin.sql where nothing is claimed by it. */
export const noKey: readonly null[] = [null, null, null];

interface Ground {
  readonly schema: string;
  readonly statements: Statements;
}

export function claimAtOnce(
  { schema, statements }: Ground,
  request: ClaimRequest,
): TransactionClaiming {
  const values = txClaimValues(schema, request);
  const claim = { statement: statements["tx-claim"], values, columns: ["token", "place"] };
  return {
    key: noKey,
    opening: [claim],
    won: (_begun, [claimed]) => updating(statements, claimed?.rows[0], () => 1),
  };
}

export function claimByTakeOver(
  { schema, statements }: Ground,
  request: ClaimRequest,
  observed: KeyRecord,
): TransactionClaiming {
  const values = takeOverValues(schema, request, observed);
  const columns = ["token", "attempt", "request", "place"];
  return {
    key: noKey,
    opening: [{ statement: statements["take-over"], values, columns }],
    won: (_begun, [taken]) =>
      updating(statements, taken?.rows[0], (row) => Number(column(row, "attempt"))),
  };
}

export function claimWithResponse(
  { schema, statements }: Ground,
  request: ClaimRequest,
): TransactionClaiming {
  const { scope, key } = request;
  // Read before the handler runs: it may change the body that the hashes are of.
  const asked = askedValues(request);
  return {
    key: [scope, key, lockHash(schema, request)],
    opening: [{ statement: statements["tx-guard"], values: [], columns: [] }],
    won: ({ rows: [row] }) => {
      const token = column(row, "token");
      if (token === null) return undefined;
      return {
        token: Number(token),
        attempt: 1,
        store: (claim, completion, waitHash) => [
          { statement: statements["tx-unguard"], values: [], columns: [] },
          {
            statement: statements["tx-store"],
            values: [
              scope,
              key,
              claim.claimId,
              claim.token,
              ...asked,
              ...responseValues(completion),
              waitHash,
            ],
            columns: ["replay_until_ms", "awaited"],
          },
        ],
      };
    },
  };
}

/** Where the record is there, and its response comes by an UPDATE. */
function updating(
  statements: Statements,
  row: unknown,
  attemptOf: (row: unknown) => number,
): Won | undefined {
  if (row === undefined) return undefined;
  const place = String(column(row, "place"));
  return {
    token: Number(column(row, "token")),
    attempt: attemptOf(row),
    store: (claim, completion, waitHash) => [
      {
        statement: statements["tx-complete"],
        values: [
          claim.scope,
          claim.key,
          claim.claimId,
          claim.token,
          ...responseValues(completion),
          waitHash,
          place,
        ],
        columns: ["replay_until_ms", "awaited", "stored"],
      },
    ],
  };
}

function responseValues({ response, replayWindowMs, dedupeWindowMs }: Answered): unknown[] {
  return [response.status, toHead(response), response.body, replayWindowMs, dedupeWindowMs];
}

/** What the last of the statements that store a response answered. */
export function readStored(results: readonly SqlResult[]): {
  replayUntilMs: number;
  isAwaited: boolean;
} {
  const row = results.at(-1)?.rows[0];
  return {
    replayUntilMs: Number(column(row, "replay_until_ms")),
    isAwaited: Number(column(row, "awaited")) === 1,
  };
}

/** What the failure of one of them means. */
export function asUnstored(cause: unknown): unknown {
  switch (sqlStateOf(cause)) {
    // tx-complete.sql divides by the rows it has written, and by nothing else.
    case "22012":
    // The cursor of tx-unguard.sql is missing: the transaction is another one.
    case "34000":
      return new IdempotencyError("transaction_ended", { cause });
    // Somebody wrote the key who does not take its lock. The retry will see it.
    case "23505":
      return new IdempotencyError("transaction_conflict", { cause, retryAfterSeconds: 1 });
    default:
      return cause;
  }
}

/** A column of a row, by whatever case a mapper has given its name. */
export function column(row: unknown, name: string): unknown {
  const plain = (row as Record<string, unknown> | undefined)?.[name];
  if (plain !== undefined) return plain;
  const entries = Object.entries((row ?? {}) as Record<string, unknown>);
  const bare = (text: string): string => text.replaceAll("_", "").toLowerCase();
  const found = entries.find(([key]) => bare(key) === bare(name));
  if (found !== undefined) return found[1];
  throw new IdempotencyError("options_invalid", {
    detail: `The transactions of \`using\` hide the column ${name}: something renames what statements return.`,
  });
}
