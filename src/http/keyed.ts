/**
 * Reads what a claim needs from a request: key, scope, fingerprint. Owns: when a request passes without a key. Adapters say how
 * their requests are looked at.
 */
import { whenReady } from "../core/awaitable.js";
import type { Awaitable } from "../core/awaitable.js";
import { IdempotencyError } from "../core/errors.js";
import { createFingerprinter } from "../core/fingerprint.js";
import type { RequestContent } from "../core/fingerprint.js";
import { parseKey, parseOwnKey, weakness } from "../core/key.js";
import type { ParsedKey } from "../core/key.js";
import type { ResolvedOptions, ResolvedRoute } from "../core/options.js";
import type { KeyedRequest } from "../core/request.js";
import { comparedContent } from "./content.js";
import type { ContentView } from "./content.js";
import type { AdapterContext, Keyed } from "./context.js";
import { sendable } from "./head.js";
import { patienceOf } from "./prefer.js";

/** How an adapter's request is looked at. Nothing is read before it is asked for. */
export interface RequestView extends ContentView {
  /** Path without the query, which may hold what should not be kept. */
  readonly path: string;
  /** The id that other middleware gave the request, so that `Original-Request` can be found in the logs. */
  givenId(): string | undefined;
  /** Aborted when the client is gone. */
  whenGone(): AbortSignal;
}

type Read<Request, Answer> = (request: Request, view: RequestView) => Awaitable<Answer>;

/**
 * Reads the key of a request and everything that a claim needs; undefined for one that passes without a key. Throws at once where
 * nothing had to be waited for.
 */
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
  return (request, view) => read(request, view) as Awaitable<Keyed>;
}

function reader<Request>(
  context: AdapterContext<Request>,
  route: ResolvedRoute,
  whenMissing: "pass" | "make",
): Read<Request, Keyed | undefined> {
  const { options, clock } = context;
  const fingerprintOf = createFingerprinter(options.secrets, route.ignoreFields);
  const isKept = whenMissing === "make";

  const keyedBy = (
    parsed: Exclude<ParsedKey, { readonly kind: "invalid" }>,
    scope: string,
    content: RequestContent,
    request: Request,
    view: RequestView,
  ): Keyed => {
    const { waitMs, appliedSeconds } = patienceOf(route, view.headerLines("prefer"));
    const keyed: KeyedRequest = {
      scope,
      key: parsed.kind === "key" ? parsed.key : `auto_${clock.uuid()}`,
      fingerprint: fingerprintOf(content),
      method: view.method,
      path: view.path,
      // One that no header can carry would keep the response back when it was stored.
      requestId:
        sendable(options.requestId?.(request)) ?? sendable(view.givenId()) ?? `req_${clock.uuid()}`,
      route,
      waitMs,
      signal: waitMs === 0 ? neverAborted : view.whenGone(),
    };
    const sent = parsed.kind === "key" ? parsed.sent : undefined;
    return { request: keyed, sent, appliedWait: appliedSeconds };
  };

  return (request, view) => {
    const isTaken = options.methods.has(view.method);
    return whenReady(isTaken ? readKey(request, view, route) : missing, (parsed) => {
      if (parsed.kind === "invalid")
        throw new IdempotencyError("key_invalid", { detail: parsed.detail });
      if (parsed.kind === "missing") {
        if (route.required) throw new IdempotencyError("key_missing");
        if (isTaken) options.onEvent({ type: "unkeyed" });
        if (whenMissing === "pass") return undefined;
      } else if (parsed.sent !== undefined) checkStability(parsed.key, route, options);
      return whenReady(options.scope(request), (given) => {
        const scope = checkScope(given);
        return whenReady(comparedContent(request, view, route, isKept), (content) =>
          keyedBy(parsed, scope, content, request, view),
        );
      });
    });
  };
}

const missing = { kind: "missing" } as const;
const neverAborted = new AbortController().signal;

/** A key of the route's own is not echoed: nobody sent that header. */
function readKey(request: unknown, view: RequestView, route: ResolvedRoute): Awaitable<ParsedKey> {
  return route.key === undefined
    ? parseKey(view.headerLines("idempotency-key"))
    : readOwnKey(request, view, route.key);
}

async function readOwnKey(
  request: unknown,
  view: RequestView,
  keyOf: NonNullable<ResolvedRoute["key"]>,
): Promise<ParsedKey> {
  let given: unknown;
  try {
    given = await keyOf(request);
  } catch (cause) {
    await demandBody(view, cause);
    throw cause;
  }
  if (given === undefined) await demandBody(view);
  return parseOwnKey(given);
}

/** A key that may stand in a body that nobody has read is not missing. */
async function demandBody(view: RequestView, cause?: unknown): Promise<void> {
  const { body } = await view.content();
  if (body.kind === "unread") throw new IdempotencyError("body_not_parsed", { cause });
}

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
