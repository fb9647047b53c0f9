/**
 * What of a request is compared, on any adapter. Owns: the route's own fingerprint function, and what a Content-Digest header
 * says of a body. Must never compare by what a request lacks.
 */
import { whenReady } from "../core/awaitable.js";
import type { Awaitable } from "../core/awaitable.js";
import { DigestCheck, parseContentDigest, statedDigest } from "../core/content-digest.js";
import { IdempotencyError } from "../core/errors.js";
import type { BodyContent, RequestContent } from "../core/fingerprint.js";
import type { ResolvedRoute } from "../core/options.js";

/** What is looked at of a request, as far as it may be compared. */
export interface ContentView {
  readonly method: string;
  /** Path and query as the client sent them, wherever routers are mounted. */
  readonly url: string;
  /** Every line of a header, by its lower-case name: repeated ones are not one. */
  headerLines(name: string): readonly string[];
  /** What counts for the fingerprint. A body that is there and that nobody has read is `unread`, never none. */
  content(): Awaitable<RequestContent>;
}

/**
 * What stands for the request in its fingerprint.
 *
 * @param isKept whether the request is kept for later attempts: its body must be at hand then
 * @throws `digest_invalid`, `fingerprint_invalid`, `body_not_parsed`, and what the route's function throws
 */
export function comparedContent(
  request: unknown,
  view: ContentView,
  route: ResolvedRoute,
  isKept: boolean,
): Awaitable<RequestContent> {
  if (route.fingerprint !== undefined) {
    return whenReady(route.fingerprint(request), (given) => {
      const body = ownBody(given);
      return { method: view.method, url: view.url, contentType: undefined, body };
    });
  }
  return whenReady(view.content(), (content) => {
    if (isKept) demandKeepable(content.body);
    const lines = view.headerLines("content-digest");
    return lines.length === 0 ? content : checkedContent(content, lines);
  });
}

/** Holds what the sender says of its body against the body, or takes it in the place of one that nobody has read. */
function checkedContent(content: RequestContent, lines: readonly string[]): RequestContent {
  const digests = parseContentDigest(lines);
  if (content.body.kind === "unread")
    return { ...content, body: { kind: "digest", digest: statedDigest(digests) } };
  if (content.sent !== undefined) new DigestCheck(digests).update(content.sent).end();
  return content;
}

/** A steps handler may run again without its request: what it is not given now it would never see. */
function demandKeepable({ kind }: BodyContent): void {
  if (kind === "unread") throw new IdempotencyError("body_not_parsed");
  if (kind === "upload")
    throw new IdempotencyError("body_not_parsed", {
      detail:
        "A steps route keeps its request and takes no files. Store them first and send their names.",
    });
}

/** What a route's own function gave, in the place of the body. */
function ownBody(value: unknown): BodyContent {
  if (typeof value === "string" || value instanceof Uint8Array)
    return { kind: "bytes", bytes: value };
  if (!isComparable(value)) throw new IdempotencyError("fingerprint_invalid");
  return { kind: "value", value };
}

/**
 * False for what JSON has no text for or shows as an empty object, as it does maps, sets and promises: it would be the same
 * for all requests.
 */
function isComparable(value: unknown): boolean {
  switch (typeof value) {
    case "string":
    case "boolean":
      return true;
    case "number":
      return Number.isFinite(value);
    case "object":
      break;
    default:
      return false;
  }
  if (value === null) return true;
  if (Array.isArray(value)) return value.every(isComparable);
  if (typeof (value as { toJSON?: unknown }).toJSON === "function") return true;
  if (Object.prototype.toString.call(value) !== "[object Object]") return false;
  // A member that is undefined is one that is not there, as in JSON.
  return Object.values(value).every((member) => member === undefined || isComparable(member));
}
