/**
 * Reads what a claim needs from a request: key, scope, fingerprint. Owns: when a request passes without a key. Adapters say how
 * their requests are looked at.
 */
import { IdempotencyError } from "../core/errors.js";
import { createFingerprinter } from "../core/fingerprint.js";
import type { RequestContent } from "../core/fingerprint.js";
import { parseKey, weakness } from "../core/key.js";
import type { ResolvedOptions, ResolvedRoute } from "../core/options.js";
import type { KeyedRequest } from "../core/request.js";
import type { AdapterContext, Keyed } from "./context.js";

/** How an adapter's request is looked at. Nothing is read before it is asked for. */
export interface RequestView {
  readonly method: string;
  /** Path without the query, which may hold what should not be kept. */
  readonly path: string;
  /** Every line of a header, by its lower-case name: repeated ones are not one. */
  headerLines(name: string): readonly string[];
  /** What counts for the fingerprint. Throws `body_not_parsed` where a body is there that nobody parsed. */
  content(): RequestContent | Promise<RequestContent>;
  /** The id that other middleware gave the request, so that `Original-Request` can be found in the logs. */
  givenId(): string | undefined;
  /** Aborted when the client is gone. */
  whenGone(): AbortSignal;
}

type Read<Request, Answer> = (request: Request, view: RequestView) => Promise<Answer>;

/** Reads the key of a request and everything that a claim needs; undefined for one that passes without a key. */
export function keyedReader<Request>(
  context: AdapterContext<Request>,
  route: ResolvedRoute,
): Read<Request, Keyed | undefined> {
  return reader(context, route, "pass");
}

/** As {@link keyedReader}; makes a key for a request that has none, so that its work survives a crash like any other. */
export function keyMaker<Request>(
  context: AdapterContext<Request>,
  route: ResolvedRoute,
): Read<Request, Keyed> {
  const read = reader(context, route, "make");
  return async (request, view) => (await read(request, view)) as Keyed;
}

function reader<Request>(
  context: AdapterContext<Request>,
  route: ResolvedRoute,
  whenMissing: "pass" | "make",
): Read<Request, Keyed | undefined> {
  const { options, clock } = context;
  const fingerprintOf = createFingerprinter(options.secrets);
  return async (request, view) => {
    const taken = options.methods.has(view.method);
    const parsed = taken ? parseKey(view.headerLines("idempotency-key")) : missing;
    if (parsed.kind === "invalid")
      throw new IdempotencyError("key_invalid", { detail: parsed.detail });
    if (parsed.kind === "missing") {
      if (route.required) throw new IdempotencyError("key_missing");
      if (taken) options.onEvent({ type: "unkeyed" });
      if (whenMissing === "pass") return undefined;
    } else checkStability(parsed.key, route, options);
    const { key, sent } =
      parsed.kind === "key" ? parsed : { key: `auto_${clock.uuid()}`, sent: undefined };
    const scope = checkScope(await options.scope(request));
    const keyed: KeyedRequest = {
      scope,
      key,
      fingerprint: fingerprintOf(await view.content()),
      method: view.method,
      path: view.path,
      requestId: options.requestId?.(request) ?? view.givenId() ?? `req_${clock.uuid()}`,
      route,
      signal: route.concurrent === "reject" ? neverAborted : view.whenGone(),
    };
    return { request: keyed, sent };
  };
}

const missing = { kind: "missing" } as const;
const neverAborted = new AbortController().signal;

function checkStability(
  key: string,
  route: ResolvedRoute,
  options: Pick<ResolvedOptions<never>, "onEvent">,
): void {
  if (route.weakKeys === "allow") return;
  const weak = weakness(key);
  if (weak === undefined) return;
  options.onEvent({ type: "weak_key", weakness: weak });
  if (route.weakKeys === "reject") throw new IdempotencyError("key_weak");
}

function checkScope(scope: unknown): string {
  // Postgres holds no NUL in a text.
  if (
    typeof scope === "string" &&
    scope.length >= 1 &&
    scope.length <= 255 &&
    !scope.includes("\0")
  )
    return scope;
  throw new IdempotencyError("scope_invalid");
}
