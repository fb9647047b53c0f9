/**
 * One web-standard request on its way through a wrapped handler. Owns: how it is looked at for its key, its one reading of the
 * body, and where the handler finds its claim. Must never take the body from the handler.
 */
import type { RequestContent } from "../core/fingerprint.js";
import { comparedBody, makeReadableAgain, readWhole, storableBody } from "./fetch-body.js";
import type { BodyHeaders, FetchBody } from "./fetch-body.js";
import type { IdempotencyContext } from "./context.js";
import type { HeaderSnapshot } from "./headers.js";
import type { RequestView } from "./keyed.js";
import type { RoutedRequest } from "./steps.js";

/** What a framework is asked for. */
export interface Exchange {
  readonly request: Request;
  /** One object for all of this request: two wrappers of it know each other by it. */
  readonly holder: object;
  /** What the framework gives its handlers beside the request. */
  readonly rest: readonly unknown[];
  /** Reads the body and leaves it for the handler. */
  readBody(maxBytes: number): Promise<FetchBody>;
  /** Headers that others have set for whatever the response will be. */
  headersBefore(): HeaderSnapshot;
  /** The id that other middleware gave the request. */
  givenId(): string | undefined;
  params(): unknown;
  /** Gives the handler its claim. */
  attach(handle: IdempotencyContext): void;
  /** Takes back what a run that counts no more has said of the response. */
  forgetResponse(before: HeaderSnapshot): void;
}

/** What a handler finds on its request. */
export interface IdempotencyOfRequest {
  /** The claim under which this handler runs; undefined where the request has no key. */
  readonly idempotency?: IdempotencyContext | undefined;
}

/** A request as a handler gets it: `(request: Idempotent<NextRequest>) => …`. */
export type Idempotent<Req extends Request = Request> = Req & IdempotencyOfRequest;

/** Beside which arguments a request came: options that are functions of the request are given them too. */
const restOfRequest = new WeakMap<Request, readonly unknown[]>();

export function restOf(request: Request): readonly unknown[] {
  return restOfRequest.get(request) ?? [];
}

/** The exchange of a function of (request, ...rest). */
export function functionExchange(request: Request, rest: readonly unknown[]): Exchange {
  return {
    request,
    holder: request,
    rest,
    readBody: (maxBytes) => readWhole(request, maxBytes),
    headersBefore: () => new Map(),
    givenId: () => undefined,
    // Bun has the parameters of a route on its request, Next.js a promise of them on the second argument.
    params: () => paramsOf(request) ?? paramsOf(rest[0]),
    attach: (handle) => attachTo(request, handle),
    forgetResponse: () => undefined,
  };
}

/** The request stays the object that the framework made: it knows more of it than the standard does. */
export function attachTo(request: Request, handle: IdempotencyContext): void {
  const property = { value: handle, configurable: true, writable: true, enumerable: false };
  Object.defineProperty(request, "idempotency", property);
}

function paramsOf(given: unknown): unknown {
  return typeof given === "object" && given !== null && "params" in given
    ? given.params
    : undefined;
}

/** An exchange with its body, read when it is asked for and only once. */
export class OpenExchange {
  readonly #exchange: Exchange;
  readonly #maxBytes: number;
  readonly #url: URL;
  #body: Promise<FetchBody> | undefined;
  #before: HeaderSnapshot | undefined;

  constructor(exchange: Exchange, maxBytes: number) {
    this.#exchange = exchange;
    this.#maxBytes = maxBytes;
    this.#url = new URL(exchange.request.url);
    restOfRequest.set(exchange.request, exchange.rest);
  }

  get request(): Request {
    return this.#exchange.request;
  }

  /** To be asked first before the handler runs. */
  headersBefore(): HeaderSnapshot {
    this.#before ??= this.#exchange.headersBefore();
    return this.#before;
  }

  attach(handle: IdempotencyContext): void {
    this.#exchange.attach(handle);
  }

  /** @throws `request_too_large`, `body_not_parsed` */
  readBody(): Promise<FetchBody> {
    this.#body ??= this.#exchange.readBody(this.#maxBytes);
    return this.#body;
  }

  /** For a handler that is run again. The body has been read. */
  async rewind(): Promise<void> {
    this.#exchange.forgetResponse(this.headersBefore());
    const body = await this.readBody();
    if (body.kind === "bytes") makeReadableAgain(this.request, body.bytes);
  }

  view(): RequestView {
    const { request } = this;
    const { pathname, search } = this.#url;
    const url = pathname + search;
    return {
      method: request.method,
      path: pathname,
      url,
      headerLines: (name) => linesOf(request.headers, name),
      content: () => this.#content(url),
      givenId: () => this.#exchange.givenId() ?? requestIdOf(request.headers),
      whenGone: () => request.signal,
    };
  }

  /** What a steps route keeps. */
  async routed(): Promise<RoutedRequest> {
    const params: unknown = await this.#exchange.params();
    return {
      headers: Object.fromEntries(this.request.headers),
      path: this.#url.pathname,
      params: typeof params === "object" && params !== null ? { ...params } : {},
      query: queryOf(this.#url.searchParams),
      body: await storableBody(await this.readBody(), this.#bodyHeaders()),
    };
  }

  async #content(url: string): Promise<RequestContent> {
    const body = await this.readBody();
    const headers = this.#bodyHeaders();
    return {
      method: this.request.method,
      url,
      contentType: headers.contentType,
      body: await comparedBody(body, headers),
      sent: body.kind === "bytes" ? body.bytes : undefined,
    };
  }

  #bodyHeaders(): BodyHeaders {
    const { headers } = this.request;
    return {
      contentType: headers.get("content-type") ?? undefined,
      contentEncoding: headers.get("content-encoding") ?? undefined,
    };
  }
}

/**
 * The lines of a header. `Headers` joins repeated ones by a comma and a space, so that a key which holds that is taken for two
 * and refused: it cannot be told apart from them.
 */
function linesOf(headers: Headers, name: string): readonly string[] {
  const value = headers.get(name);
  if (value === null) return [];
  return name === "idempotency-key" ? value.split(", ") : [value];
}

function requestIdOf(headers: Headers): string | undefined {
  const header = headers.get("x-request-id");
  return header !== null && /^[\x21-\x7e]{1,128}$/.test(header) ? header : undefined;
}

function queryOf(search: URLSearchParams): Record<string, string | string[]> {
  const names = [...new Set(search.keys())];
  return Object.fromEntries(
    names.map((name) => {
      const all = search.getAll(name);
      return [name, all.length === 1 ? (all[0] as string) : all];
    }),
  );
}
