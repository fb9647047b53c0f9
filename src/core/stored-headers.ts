/**
 * Which headers of a response are kept for its replays. Owns: the three lists and the option that moves between them. A header
 * that is not kept still reaches the first client; a replay has what its own request is given in front of the middleware.
 */

/** Names are compared without regard to case. */
export interface StoreHeaders {
  /** Of the headers that the handler sets, only these. */
  readonly only?: readonly string[];
  /** All that the handler sets and that are stored by default, without these. */
  readonly except?: readonly string[];
}

/**
 * Never stored: hop-by-hop headers (RFC 9110, section 7.6.1), the time of sending, what belongs to one client's session or
 * connection and not to the result, and our own.
 */
const never: ReadonlySet<string> = new Set([
  "connection",
  "keep-alive",
  "proxy-authenticate",
  "proxy-authentication-info",
  "proxy-authorization",
  "proxy-connection",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
  "date",
  "authentication-info",
  "clear-site-data",
  "set-cookie",
  "set-cookie2",
  "idempotency-key",
  "idempotency-expires",
  "idempotency-stored",
  "idempotent-replayed",
  "original-request",
  "stripe-should-retry",
]);

/**
 * Not stored unless `only` names them: what tells of one exchange (its id, its trace, its time, what is left of a limit) and
 * would be wrong of another.
 */
const notByDefault: ReadonlySet<string> = new Set([
  "age",
  "via",
  "server-timing",
  "x-response-time",
  "x-runtime",
  "request-id",
  "x-request-id",
  "x-correlation-id",
  "x-amzn-trace-id",
  "traceparent",
  "tracestate",
  "traceresponse",
  "ratelimit",
  "ratelimit-policy",
  "ratelimit-limit",
  "ratelimit-remaining",
  "ratelimit-reset",
  "x-ratelimit-limit",
  "x-ratelimit-remaining",
  "x-ratelimit-reset",
  "x-rate-limit-limit",
  "x-rate-limit-remaining",
  "x-rate-limit-reset",
]);

/** Always stored: without these the bytes of a body are read as something else (RFC 9110, section 8). */
const always: ReadonlySet<string> = new Set([
  "content-type",
  "content-encoding",
  "content-length",
  "content-range",
]);

/** What is wrong with the option, one sentence each. */
export function storeHeadersProblems({ only, except }: StoreHeaders): string[] {
  const problems: string[] = [];
  if (only !== undefined && except !== undefined) problems.push("give only or except, not both");
  for (const name of only ?? []) {
    if (never.has(name.toLowerCase())) problems.push(`only: ${name} can never be stored`);
  }
  for (const name of except ?? []) {
    if (always.has(name.toLowerCase()))
      problems.push(`except: without ${name} the body would be read as another`);
  }
  return problems;
}

/** True for the lower-case name of a header that is kept for replays. */
export type StoresHeader = (lowerCaseName: string) => boolean;

/** What is stored without the option. */
export const storesByDefault: StoresHeader = (name) => !never.has(name) && !notByDefault.has(name);

/** One policy per option: options live as long as their routes. */
const policies = new WeakMap<StoreHeaders, StoresHeader>();

export function storesHeader(option: StoreHeaders): StoresHeader {
  const known = policies.get(option);
  if (known !== undefined) return known;
  const policy = policyOf(option);
  policies.set(option, policy);
  return policy;
}

function policyOf({ only, except }: StoreHeaders): StoresHeader {
  if (only !== undefined) {
    const names = new Set(only.map((name) => name.toLowerCase()));
    return (name) => always.has(name) || (names.has(name) && !never.has(name));
  }
  if (except === undefined) return storesByDefault;
  const names = new Set(except.map((name) => name.toLowerCase()));
  return (name) => storesByDefault(name) && !names.has(name);
}
