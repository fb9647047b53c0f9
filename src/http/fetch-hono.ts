/**
 * Hono, without importing it. Owns: what of its context is used, and putting a response in the place of the one that Hono has.
 */
import type { PoolClient } from "pg";
import type { StepsHandler, StepsOptions } from "../core/attempt.js";
import type { RouteOptions, TransactionRouteOptions } from "../core/options.js";
import type { IdempotencyContext } from "./context.js";
import type { Reply, Route } from "./fetch.js";
import { keptBody, readWhole } from "./fetch-body.js";
import type { FetchBody } from "./fetch-body.js";
import { attachTo } from "./fetch-exchange.js";
import type { Exchange } from "./fetch-exchange.js";
import { snapshotOf } from "./fetch-response.js";

/** What of Hono's `Context` a middleware is typed by. */
export interface HonoContext {
  readonly req: { readonly raw: Request };
  readonly res: Response;
}

/** A middleware of Hono. */
export type HonoMiddleware = (c: HonoContext, next: () => Promise<void>) => Promise<void>;

/** For the `Variables` of an app, so that `c.get("idempotency")` has a type. */
export interface IdempotencyVariables {
  idempotency: IdempotencyContext | undefined;
}

/** The routes of an instance, mounted in Hono. */
export interface HonoIdempotency {
  /** Middleware for a plain route: at most once, replayed afterwards. Errors are rendered by the app's `onError`, and stored. */
  (route?: RouteOptions<Request>): HonoMiddleware;
  /** A whole handler: exactly once for what is written through `tx`. What it throws goes to the app's `onError`. */
  transaction<Context extends HonoContext>(
    handler: (c: Context, tx: PoolClient) => Reply,
  ): (c: Context) => Promise<Response>;
  transaction<Context extends HonoContext, Tx = PoolClient>(
    route: TransactionRouteOptions<Tx, Request>,
    handler: (c: Context, tx: Tx) => Reply,
  ): (c: Context) => Promise<Response>;
  /** A whole handler that continues at its last recovery point after a crash. */
  steps<Tx = PoolClient>(
    name: string,
    handler: StepsHandler<Tx>,
  ): (c: HonoContext) => Promise<Response>;
  steps<Tx = PoolClient>(
    name: string,
    route: RouteOptions<Request> & StepsOptions,
    handler: StepsHandler<Tx>,
  ): (c: HonoContext) => Promise<Response>;
}

/** What Hono's context and request do, as far as it is used. */
interface Inside {
  readonly req: {
    readonly raw: Request;
    /** Bodies that were read by the methods below, by the name of the method. */
    readonly bodyCache: Readonly<Record<string, unknown>>;
    arrayBuffer(): Promise<ArrayBuffer>;
    formData(): Promise<FormData>;
    param(): unknown;
  };
  res: Response | undefined;
  get(name: string): unknown;
  set(name: string, value: unknown): void;
  status(status: number | undefined): void;
}

export function honoMiddleware(route: Route): HonoMiddleware {
  return async (c, next) => {
    const response = await route(exchangeOf(c), async () => {
      await next();
      return c.res;
    });
    replaceResponse(c, response);
  };
}

export function honoHandler<Context extends HonoContext, Given extends readonly unknown[]>(
  route: Route<Given>,
  handler: (c: Context, ...given: Given) => unknown,
): (c: Context) => Promise<Response> {
  return async (c) => {
    const response = await route(exchangeOf(c), (...given) => handler(c, ...given));
    replaceResponse(c, response);
    return response;
  };
}

/** Taken away first: Hono lays the headers of the response before over the one that is set. */
function replaceResponse(c: HonoContext, response: Response): void {
  const inside = c as unknown as Inside;
  inside.res = undefined;
  inside.res = response;
}

function exchangeOf(c: HonoContext): Exchange {
  const inside = c as unknown as Inside;
  const request = inside.req.raw;
  return {
    request,
    holder: c,
    rest: [c],
    readBody: (maxBytes) => readBody(inside, maxBytes),
    headersBefore: () => snapshotOf(c.res.headers),
    givenId: () => {
      const id = inside.get("requestId");
      return typeof id === "string" && id !== "" ? id : undefined;
    },
    params: () => inside.req.param(),
    attach: (handle) => {
      attachTo(request, handle);
      inside.set("idempotency", handle);
    },
    forgetResponse: (before) => {
      const { headers } = c.res;
      const names = Array.from(headers.keys());
      for (const name of names) headers.delete(name);
      for (const { name, value } of before.values())
        for (const one of [value].flat()) headers.append(name, String(one));
      inside.status(undefined);
    },
  };
}

/** A validator in front may have read the body; Hono has kept what it read. */
async function readBody({ req }: Inside, maxBytes: number): Promise<FetchBody> {
  if ("formData" in req.bodyCache) return { kind: "form", form: await req.formData() };
  if (Object.keys(req.bodyCache).length === 0) return readWhole(req.raw, maxBytes);
  return keptBody(new Uint8Array(await req.arrayBuffer()), maxBytes);
}
