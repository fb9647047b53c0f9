/**
 * The payments and orders API as an Express app, with oncekey mounted as any user would mount it. Owns: the routes and the
 * order in which a request meets authentication, parsing, validation and idempotency. Opens and closes nothing.
 */
import express from "express";
import type { Express, RequestHandler } from "express";
import helmet from "helmet";
import type { Pool } from "pg";
import type { Logger } from "pino";
import type { Registry } from "prom-client";
import { createIdempotency } from "../index.js";
import type { Cache, Idempotency, Store } from "../index.js";
import { accountOf, authenticate, scopeOf } from "./auth.js";
import { readBodies } from "./bodies.js";
import { createCharge, getCharge, getCharges, readChargeRequest } from "./charges.js";
import type { Account, Dialect } from "./config.js";
import { createCheckout, getCheckout, keptHeaders, readCheckoutRequest } from "./checkouts.js";
import type { PaymentTerms } from "./checkouts.js";
import { healthy, metricsOf, ready } from "./health.js";
import type { Pingable } from "./health.js";
import { createMetrics, logAggregate, logEvent, logRequests } from "./observation.js";
import { openEventBooks, readUploadForm, uploadEvents, uploadKeys } from "./events.js";
import type { EventBooks } from "./events.js";
import { createOrder, getOrder, readOrderRequest } from "./orders.js";
import { getRevenue, putMerchant, readRecomputeRequest, recomputeRevenue } from "./revenue.js";
import type { UploadSummary } from "./upload.js";
import { refuseOtherMethods, refuseUnknownPath, sendErrors } from "./wire.js";

export interface AppOptions {
  readonly accounts: ReadonlyMap<string, Account>;
  readonly dialect: Dialect;
  /** For the handlers; transaction routes hold a connection of it while they run. */
  readonly pool: Pool;
  /** For `/readyz`, which must not wait behind the handlers. */
  readonly probes: Pool;
  readonly store: Store;
  /** What stands between this server and Postgres, for what opens connections of its own. */
  readonly pooler?: "transaction" | undefined;
  readonly cache?: Cache;
  readonly redis?: Pingable;
  readonly logger: Logger;
  /** Of checkouts. */
  readonly payment: PaymentTerms;
  readonly leaseMs?: number;
  readonly stepTimeoutMs?: number;
  /** Whether this process finishes abandoned checkouts and computes revenue; default true. */
  readonly workers?: boolean;
  /** True once the server stops; `/readyz` says so. */
  readonly isDraining?: () => boolean;
  /**
   * Given this process' metrics, answers what `/metrics` says: the sum over several processes, or undefined when one of them
   * did not answer. Absent: its own.
   */
  readonly shareMetrics?: (registry: Registry) => () => Promise<string | undefined>;
}

export interface PaymentsApp {
  readonly app: Express;
  /** Waits for what runs and is not stored yet. */
  close(): Promise<void>;
}

/** Builds the app. */
export function createApp(options: AppOptions): PaymentsApp {
  const { accounts, dialect, pool, probes, store, cache, redis, logger, payment } = options;
  const { leaseMs, stepTimeoutMs, workers } = options;
  const isDraining = options.isDraining ?? (() => false);
  const metrics = createMetrics(pool);
  const scrape = options.shareMetrics?.(metrics.registry);
  const idempotent = createIdempotency({
    store,
    ...(cache === undefined ? {} : { cache }),
    ...(leaseMs === undefined ? {} : { leaseMs }),
    ...(workers === undefined ? {} : { workers }),
    dialect,
    scope: (req: express.Request) => scopeOf(accountOf(req)),
    hooks: {
      onEvent: (event) => {
        metrics.onEvent(event);
        logEvent(logger, event);
      },
    },
  });
  const books = openEventBooks({
    pool,
    pooler: options.pooler,
    workers: workers ?? true,
    onAggregate: (event) => {
      metrics.onAggregate(event);
      logAggregate(logger, event);
    },
  });

  const app = express();
  app.disable("x-powered-by");
  // A validator is of no use on answers that change with each new charge, and would be one more header to replay.
  app.disable("etag");
  app.use(logRequests(logger), metrics.measure, hardened);

  app.route("/healthz").get(healthy).all(refuseOtherMethods("GET"));
  app
    .route("/readyz")
    .get(ready({ pool: probes, redis, isDraining }))
    .all(refuseOtherMethods("GET"));
  app.route("/metrics").get(metricsOf(metrics.registry, scrape)).all(refuseOtherMethods("GET"));

  app.use("/v1", neverCache, authenticate(accounts));
  app
    .route("/v1/charges")
    .get(getCharges(pool))
    .post(...readBodies(), readChargeRequest, idempotent.transaction(createCharge(dialect)))
    .all(refuseOtherMethods("GET", "POST"));
  app.route("/v1/charges/:id").get(getCharge(pool)).all(refuseOtherMethods("GET"));
  app
    .route("/v1/orders")
    .post(
      ...readBodies(),
      readOrderRequest,
      idempotent({ required: true }),
      createOrder(pool, dialect),
    )
    .all(refuseOtherMethods("POST"));
  app.route("/v1/orders/:id").get(getOrder(pool)).all(refuseOtherMethods("GET"));
  app
    .route("/v1/checkouts")
    .post(
      ...readBodies(),
      readCheckoutRequest,
      idempotent.steps(
        "checkout",
        { keepHeaders: keptHeaders, ...(stepTimeoutMs === undefined ? {} : { stepTimeoutMs }) },
        createCheckout(payment, dialect),
      ),
    )
    .all(refuseOtherMethods("POST"));
  app.route("/v1/checkouts/:id").get(getCheckout(pool)).all(refuseOtherMethods("GET"));
  mountEvents(app, { pool, books, idempotent, onUpload: metrics.onUpload });

  app.use(refuseUnknownPath);
  app.use(sendErrors(dialect));
  return {
    app,
    close: async () => {
      await idempotent.close();
      await books.close();
    },
  };
}

/** Events, and what they come to. */
function mountEvents(app: Express, parts: EventParts): void {
  const { pool, books, idempotent, onUpload } = parts;
  app
    .route("/v1/events")
    .post(readUploadForm, uploadKeys(idempotent), uploadEvents(books, onUpload))
    .all(refuseOtherMethods("POST"));
  // A merchant may be called "recompute" too: it is read by GET, which the next route answers.
  app.post(
    "/v1/revenue/recompute",
    ...readBodies(),
    readRecomputeRequest,
    idempotent({ afterCrash: "rerun", serverErrors: "release" }),
    recomputeRevenue(books),
  );
  app.route("/v1/revenue/:merchant_id").get(getRevenue(pool, books)).all(refuseOtherMethods("GET"));
  app
    .route("/v1/merchants/:merchant_id")
    .put(...readBodies(), putMerchant(pool, books))
    .all(refuseOtherMethods("PUT"));
}

interface EventParts {
  readonly pool: Pool;
  readonly books: EventBooks;
  readonly idempotent: Idempotency;
  readonly onUpload: (summary: UploadSummary) => void;
}

/** Nothing here is a page: whatever a browser is made to show of it may load nothing and be framed by nobody. */
const hardened = helmet({
  contentSecurityPolicy: {
    useDefaults: false,
    directives: { "default-src": ["'none'"], "frame-ancestors": ["'none'"] },
  },
});

/** What belongs to an account is for nobody's cache (RFC 9111, section 5.2.2.5). */
const neverCache: RequestHandler = (_req, res, next) => {
  res.setHeader("Cache-Control", "no-store");
  next();
};
