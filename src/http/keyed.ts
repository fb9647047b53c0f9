/**
 * Reads what a claim needs from a Node request: key, scope, fingerprint. Owns: when a request passes without a key.
 */
import type { ServerResponse } from "node:http";
import { IdempotencyError } from "../core/errors.js";
import { createFingerprinter } from "../core/fingerprint.js";
import { headerLines, parseKey, weakness } from "../core/key.js";
import type { ResolvedOptions, ResolvedRoute } from "../core/options.js";
import type { KeyedRequest } from "../core/request.js";
import type { AdapterContext, HttpRequest, Keyed } from "./adapter.js";
import { givenRequestId, pathOf, readContent } from "./request.js";

/** Reads the key of a request and everything that a claim needs; undefined for one that passes without a key. */
export function keyedReader(
  context: AdapterContext,
  route: ResolvedRoute,
): (req: HttpRequest, res: ServerResponse) => Promise<Keyed | undefined> {
  return reader(context, route, "pass");
}

/** As {@link keyedReader}; makes a key for a request that has none, so that its work survives a crash like any other. */
export function keyMaker(
  context: AdapterContext,
  route: ResolvedRoute,
): (req: HttpRequest, res: ServerResponse) => Promise<Keyed> {
  const read = reader(context, route, "make");
  return async (req, res) => (await read(req, res)) as Keyed;
}

function reader(
  context: AdapterContext,
  route: ResolvedRoute,
  whenMissing: "pass" | "make",
): (req: HttpRequest, res: ServerResponse) => Promise<Keyed | undefined> {
  const { options, clock } = context;
  const fingerprintOf = createFingerprinter(options.secrets);
  return async (req, res) => {
    const taken = options.methods.has(req.method ?? "");
    const parsed = taken ? parseKey(headerLines(req.rawHeaders, "idempotency-key")) : missing;
    if (parsed.kind === "invalid")
      throw new IdempotencyError("key_invalid", { detail: parsed.detail });
    if (parsed.kind === "missing") {
      if (route.required) throw new IdempotencyError("key_missing");
      if (taken) options.onEvent({ type: "unkeyed" });
      if (whenMissing === "pass") return undefined;
    } else checkStability(parsed.key, route, options);
    const { key, sent } =
      parsed.kind === "key" ? parsed : { key: `auto_${clock.uuid()}`, sent: undefined };
    const scope = checkScope(await options.scope(req));
    const request: KeyedRequest = {
      scope,
      key,
      fingerprint: fingerprintOf(readContent(req)),
      method: req.method ?? "",
      path: pathOf(req),
      requestId: options.requestId?.(req) ?? givenRequestId(req) ?? `req_${clock.uuid()}`,
      route,
      signal: route.concurrent === "reject" ? neverAborted : abortedWhenGone(res),
    };
    return { request, sent };
  };
}

const missing = { kind: "missing" } as const;
const neverAborted = new AbortController().signal;

function abortedWhenGone(res: ServerResponse): AbortSignal {
  const gone = new AbortController();
  res.once("close", () => gone.abort());
  return gone.signal;
}

function checkStability(
  key: string,
  route: ResolvedRoute,
  options: ResolvedOptions<HttpRequest>,
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
