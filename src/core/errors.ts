/**
 * The table of everything oncekey can answer or throw, and the one error class.
 * Owns: codes, statuses, titles, whether a retry with the same key can help. docs/errors.md is held against this table.
 * Must never carry a key's value, a body or a credential.
 */

const docsBase = "https://oncekey.dev/errors#";

interface ErrorEntry {
  readonly status: number;
  readonly retryable: boolean;
  readonly title: string;
  /** What the reader should do now. One sentence or two. */
  readonly help: string;
}

/** Every code, once. `status` is what a client sees; set-up errors are 500 because the client cannot mend them. */
export const errorTable = {
  key_missing: {
    status: 400,
    retryable: false,
    title: "Idempotency-Key is required",
    help: "Send an Idempotency-Key header: 1 to 255 printable ASCII characters that stay the same when you retry.",
  },
  key_invalid: {
    status: 400,
    retryable: false,
    title: "Idempotency-Key is not valid",
    help: 'Send the header once, with 1 to 255 printable ASCII characters, bare (abc) or as a quoted string ("abc").',
  },
  key_weak: {
    status: 400,
    retryable: false,
    title: "Idempotency-Key is not stable enough",
    help: "Counters and clock times change on every run. Use a random UUID kept across retries, or a key made from business identity.",
  },
  key_reused: {
    status: 422,
    retryable: false,
    title: "Idempotency-Key was used for another request",
    help: "The key belongs to a different request. Send the original request again, or use a new key for this one.",
  },
  in_progress: {
    status: 409,
    retryable: true,
    title: "A request with this Idempotency-Key is still running",
    help: "Wait for the time in Retry-After and send the same request with the same key again.",
  },
  outcome_unknown: {
    status: 409,
    retryable: false,
    title: "The outcome of the first request is not known",
    help: "The process that ran this request stopped before it could say what happened. Check the resource itself; an operator can settle the key.",
  },
  key_expired: {
    status: 409,
    retryable: false,
    title: "The response for this Idempotency-Key is no longer kept",
    help: "The request was carried out before and is not carried out again. Read the resource itself, or use a new key for new work.",
  },
  response_not_stored: {
    status: 409,
    retryable: false,
    title: "The response was not stored",
    help: "The request was carried out, and its response was too large, was a stream or was broken off, so it cannot be replayed. Read the resource itself.",
  },
  store_unavailable: {
    status: 503,
    retryable: true,
    title: "The idempotency store cannot be reached",
    help: "Send the same request with the same key again after the time in Retry-After. It is never carried out twice.",
  },
  handler_timeout: {
    status: 504,
    retryable: true,
    title: "The handler did not answer in time",
    help: "The request is still being carried out. Send it again with the same key: it is never carried out twice, and it gets the response when there is one.",
  },
  attempt_failed: {
    status: 503,
    retryable: true,
    title: "This attempt did not reach its end",
    help: "What was done is kept. Send the same request with the same key again; it goes on where this attempt ended.",
  },
  definition_changed: {
    status: 500,
    retryable: false,
    title: "The steps of this route are not those that began this request",
    help: "A step was renamed, reordered or removed while requests were unfinished. Restore it, or settle the key by hand.",
  },
  body_not_exact: {
    status: 400,
    retryable: false,
    title: "The body holds a number that cannot be compared exactly",
    help: "Integers beyond 2^53 lose digits when they are parsed. Send them as strings, or mount the body parser with { verify: keepRawBody }.",
  },
  body_not_parsed: {
    status: 500,
    retryable: false,
    title: "The request body was not parsed before the idempotency middleware",
    help: "Mount a body parser that accepts this content type (express.json(), express.urlencoded(), express.raw(), multer) in front of the middleware. For a body that the handler streams, have clients send Content-Digest, or give the route a fingerprint function.",
  },
  digest_invalid: {
    status: 400,
    retryable: false,
    title: "Content-Digest is not that of the body",
    help: "Send Content-Digest as RFC 9530 has it, with the sha-256 or sha-512 of the body as it is sent, or leave it away where the body is not streamed.",
  },
  fingerprint_invalid: {
    status: 500,
    retryable: false,
    title: "The fingerprint function gave nothing to compare",
    help: "fingerprint(req) must give a JSON value, a text or bytes that say what is asked: not undefined, a function, a map or a set.",
  },
  request_too_large: {
    status: 413,
    retryable: false,
    title: "The request body is larger than maxRequestBytes",
    help: "Nothing was run. The body is read whole to be compared: send a smaller one, or have maxRequestBytes raised.",
  },
  options_invalid: {
    status: 500,
    retryable: false,
    title: "The idempotency options are not valid",
    help: "Mend every problem that is listed.",
  },
  schema_missing: {
    status: 500,
    retryable: false,
    title: "The database schema is missing or of another version",
    help: "Run `npx oncekey migrate` (or migrate({ pool }) from oncekey/postgres) against this database.",
  },
  scope_invalid: {
    status: 500,
    retryable: false,
    title: "The scope function gave no usable scope",
    help: "scope(req) must return a string of 1 to 255 characters that names the tenant; authenticate in front of the middleware.",
  },
  transaction_ended: {
    status: 500,
    retryable: false,
    title: "The transaction is not the handler's to end, or has ended",
    help: "Do not run BEGIN, COMMIT or ROLLBACK on tx, and do not use tx after the handler has finished.",
  },
  transaction_failed: {
    status: 500,
    retryable: true,
    title: "The transaction could not be committed",
    help: "Nothing was written. A statement inside the transaction failed, or a limit ended it; the same key can be sent again.",
  },
  message_invalid: {
    status: 500,
    retryable: false,
    title: "The message cannot be put into the outbox",
    help: "Send a JSON value of at most 256 KiB under a topic such as order.paid, and at most 1,000 messages a request.",
  },
  send_not_possible: {
    status: 500,
    retryable: false,
    title: "Messages can be sent from transaction and steps routes only",
    help: "A plain route has no commit that the message could leave with. Use idempotent.transaction or idempotent.steps.",
  },
  transaction_conflict: {
    status: 503,
    retryable: true,
    title: "Other transactions were in the way",
    help: "Nothing was written. Postgres refused every try for the sake of another transaction. Send the same request with the same key again after the time in Retry-After.",
  },
  response_streamed: {
    status: 500,
    retryable: false,
    title: "A transaction route cannot stream its response",
    help: "Nothing was written. A transaction route holds its response until commit: answer as a whole, or stream from a plain route.",
  },
  response_too_large: {
    status: 500,
    retryable: false,
    title: "The response of a transaction route is larger than maxResponseBytes",
    help: "Nothing was written. Raise maxResponseBytes or answer with a smaller body: a transaction route holds its response until commit.",
  },
  key_part_invalid: {
    status: 400,
    retryable: false,
    title: "A part of the stable key is not stable",
    help: "Make the key from texts, whole numbers, booleans and instants that are the same in every run, and leave out what is empty.",
  },
  table_unsuitable: {
    status: 500,
    retryable: false,
    title: "The table is not as the sink's description says",
    help: "Mend every problem that is listed: the table, its columns, and a unique index on exactly the columns of the key.",
  },
  row_invalid: {
    status: 400,
    retryable: false,
    title: "A row cannot be stored",
    help: "Nothing of its batch was written. Mend the row, or give the sink onBadRow, which sets such rows aside.",
  },
  batch_reused: {
    status: 422,
    retryable: false,
    title: "The batch id was used for other rows",
    help: "Nothing was written. A batch id names the very rows it was first used with: give other rows another one.",
  },
} as const satisfies Record<string, ErrorEntry>;

export type ErrorCode = keyof typeof errorTable;

/** The codes with which a keyed request is turned away by the state of its key. */
export type RefusalCode =
  | "key_reused"
  | "in_progress"
  | "outcome_unknown"
  | "key_expired"
  | "response_not_stored"
  | "store_unavailable";

const brand = Symbol.for("oncekey.error");

/** What an {@link IdempotencyError} can be told besides its code. */
export interface ErrorDetails {
  /** One sentence for this very case; defaults to the code's help. Never a value from a request. */
  readonly detail?: string;
  /** Names of the fields that differ from the first request, for `key_reused`. Never their values. */
  readonly differs?: readonly string[];
  /** Seconds after which a retry makes sense; sent as Retry-After. */
  readonly retryAfterSeconds?: number;
  readonly cause?: unknown;
}

/**
 * The only error class of oncekey. Test for it with {@link isIdempotencyError}, not with `instanceof`: an ESM and a CJS
 * copy of the package in one process have two classes.
 */
export class IdempotencyError extends Error {
  override readonly name = "IdempotencyError";
  readonly code: ErrorCode;
  /** HTTP status a client is answered with (400 to 504). Express' own error handler honours it. */
  readonly status: number;
  readonly retryable: boolean;
  readonly title: string;
  readonly help: string;
  /** URL of the code's page; the `type` of the problem document (RFC 9457, section 3.1.1). */
  readonly type: string;
  readonly differs: readonly string[] | undefined;
  readonly retryAfterSeconds: number | undefined;

  constructor(code: ErrorCode, details: ErrorDetails = {}) {
    const entry: ErrorEntry = errorTable[code];
    super(
      details.detail ?? entry.help,
      details.cause === undefined ? {} : { cause: details.cause },
    );
    this.code = code;
    this.status = entry.status;
    this.retryable = entry.retryable;
    this.title = entry.title;
    this.help = entry.help;
    this.type = docsBase + code;
    this.differs = details.differs;
    this.retryAfterSeconds = details.retryAfterSeconds;
    Object.defineProperty(this, brand, { value: true });
  }
}

/** True for an {@link IdempotencyError} of any copy of this package. */
export function isIdempotencyError(value: unknown): value is IdempotencyError {
  return (
    typeof value === "object" &&
    value !== null &&
    (value as Record<symbol, unknown>)[brand] === true
  );
}
