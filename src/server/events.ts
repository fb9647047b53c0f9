/**
 * The route of events. Owns: which bodies are taken, and what an Idempotency-Key means for one that is too large to compare: its
 * summary is replayed, and where it did not come to one it runs again, since the events' own ids keep it from counting twice.
 */
import type { IncomingMessage } from "node:http";
import type { Request, RequestHandler } from "express";
import type { Pool } from "pg";
import { verifyContentDigest } from "../index.js";
import type { Idempotency, RouteOptions } from "../index.js";
import {
  aggregateWorker,
  contentEncodings,
  isEncodingError,
  readContentEncoding,
  upsertSink,
} from "../pipeline.js";
import type { Aggregate, AggregateEvent, ContentEncoding } from "../pipeline.js";
import { accountOf } from "./auth.js";
import { dailyRevenue, eventSink } from "./event-ledger.js";
import type { EventRow } from "./event-record.js";
import { runUpload, through } from "./upload.js";
import type { EventSink, UploadSummary } from "./upload.js";
import { ApiError } from "./wire.js";

export interface EventBooksOptions {
  readonly pool: Pool;
  readonly pooler: "transaction" | undefined;
  /** Whether this process computes what others have marked. */
  readonly workers: boolean;
  readonly onAggregate: (event: AggregateEvent) => void;
}

/** What the routes of events and revenue work with. */
export interface EventBooks {
  readonly sink: EventSink;
  readonly revenue: Aggregate;
  /** Some events were stored: their days are computed soon. */
  readonly wake: () => void;
  close(): Promise<void>;
}

/** Twice as much is hardly faster, and of every upload four such batches are held at a time. */
const batchRows = 5_000;
const maxBatchBytes = 512 * 1024;

/** Opens the sink, and the worker that keeps the daily revenue. */
export function openEventBooks(options: EventBooksOptions): EventBooks {
  const { pool, pooler, workers, onAggregate } = options;
  const sink = upsertSink<EventRow>({
    ...eventSink,
    pool,
    batchRows,
    maxBatchBytes,
    ...(pooler === undefined ? {} : { pooler }),
    onBadRow: ({ row, column, reason }) => {
      const field = column === undefined ? {} : { field: column };
      row.upload.refuse({ line: row.line, code: "refused", ...field, reason });
    },
  });
  const revenue = dailyRevenue(pool);
  const worker = aggregateWorker({ aggregates: [revenue], hooks: { onEvent: onAggregate } });
  if (workers) worker.start();
  return {
    sink,
    revenue,
    wake: () => worker.wake(),
    close: async () => {
      await sink.close();
      await worker.stop();
    },
  };
}

const lineTypes = ["application/x-ndjson", "application/ndjson", "application/jsonl"];
const arrayType = "application/json";
const types = [arrayType, ...lineTypes];

/** Whether a request may take as long as it goes on. */
export function isUpload(req: IncomingMessage): boolean {
  return req.method === "POST" && /^\/v1\/events\/?(?:\?|$)/.test(req.url ?? "");
}

/** In front of the idempotency middleware: what cannot be read takes no key. */
export const readUploadForm: RequestHandler = (req, res, next) => {
  const type = req.is(types);
  if (type === false) {
    throw new ApiError("unsupported_media_type", `Send ${lineTypes[0]} or ${arrayType}.`, {
      headers: { "Accept-Post": types.join(", ") },
    });
  }
  const encoding = readContentEncoding(req.headers["content-encoding"]);
  if (encoding === undefined) {
    const known = contentEncodings.join(", ");
    throw new ApiError("unsupported_media_type", `Content-Encoding must be one of ${known}.`, {
      headers: { "Accept-Encoding": known },
    });
  }
  res.locals["upload"] = {
    format: type === arrayType ? "array" : "ndjson",
    encoding,
  } satisfies UploadForm;
  next();
};

interface UploadForm {
  readonly format: "ndjson" | "array";
  readonly encoding: ContentEncoding;
}

/** Ten gigabytes on a slow line take hours. */
const maxRunMs = 24 * 60 * 60 * 1_000;

/**
 * Only a summary is kept: whatever else is answered says that the upload did not come to its end, and it may be sent again under its
 * key, also after a crash.
 */
const uploadRoute = {
  afterCrash: "rerun",
  serverErrors: "release",
  releaseOn: [400, 408, 413, 415],
  maxRunMs,
} as const satisfies RouteOptions;

/**
 * The middleware of keys. With Content-Digest a key belongs to those bytes. Without it nothing is known of a body before it has run:
 * the key belongs to its length, where that is stated, and to its type.
 */
export function uploadKeys(idempotent: Idempotency): RequestHandler {
  const digested = idempotent(uploadRoute);
  const undigested = idempotent({
    ...uploadRoute,
    fingerprint: (req: Request) => ({
      type: req.headers["content-type"] ?? "",
      encoding: req.headers["content-encoding"] ?? "identity",
      length: req.headers["content-length"] ?? "",
    }),
  });
  return (req, res, next) =>
    (req.headers["content-digest"] === undefined ? undigested : digested)(req, res, next);
}

export function uploadEvents(
  books: EventBooks,
  onUpload: (summary: UploadSummary) => void,
): RequestHandler {
  return async (req, res) => {
    const { format, encoding } = res.locals["upload"] as UploadForm;
    try {
      const source =
        req.headers["content-digest"] === undefined
          ? (req.iterator({ destroyOnReturn: false }) as AsyncIterable<Uint8Array>)
          : through(req, verifyContentDigest(req));
      const account = accountOf(req);
      const summary = await runUpload({ source, encoding, format, account, sink: books.sink });
      onUpload(summary);
      res.json(summary);
    } catch (error) {
      // Also where the client has gone, and no status can say so.
      req.idempotency?.release();
      if (isEncodingError(error)) {
        const detail = `The body is not valid ${encoding}. What came before its fault is stored.`;
        throw new ApiError("invalid_request", detail);
      }
      throw error;
    } finally {
      books.wake();
    }
  };
}
