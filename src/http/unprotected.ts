/**
 * The kill switch at work. Owns: what a request with a key is, and is told, while nothing protects it.
 */
import type { ServerResponse } from "node:http";
import { attachContext } from "./adapter.js";
import type { AdapterContext, HttpRequest, Keyed } from "./adapter.js";

/** Instances that have warned; the events tell of each request. */
const warned = new WeakSet<object>();

/** True while `dangerouslyRunWithoutStore` is on: the request has been told so, and is to run as if it had no key. */
export function isUnprotected(
  context: AdapterContext,
  keyed: Keyed,
  req: HttpRequest,
  res: ServerResponse,
): boolean {
  const { options } = context;
  if (!options.isUnprotected()) return false;
  if (!warned.has(options)) {
    warned.add(options);
    process.emitWarning(
      "dangerouslyRunWithoutStore is on: idempotency keys protect nothing, and retries run again.",
      { type: "OncekeyWarning", code: "ONCEKEY_UNPROTECTED" },
    );
  }
  options.onEvent({ type: "unprotected" });
  if (keyed.sent !== undefined) res.setHeader("Idempotency-Key", keyed.sent);
  res.setHeader("Idempotency-Stored", "false");
  // Downstream keys need no store: what takes them is still called once. A token that no store gave is older than all others.
  const { scope, key } = keyed.request;
  attachContext(req, { scope, key, attempt: 1, token: 0 }, () => undefined);
  return true;
}
