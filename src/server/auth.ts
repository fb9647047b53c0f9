/**
 * Who asks. Owns: reading API keys from Authorization, and comparing them in constant time. Stands in front of the
 * idempotency middleware, so that a refused request never takes a key. Must never log or echo a whole API key.
 */
import { createHash, timingSafeEqual } from "node:crypto";
import type { RequestHandler } from "express";
import type { Account } from "./config.js";
import { ApiError } from "./wire.js";

declare global {
  // Express' own way to give requests a property.
  // eslint-disable-next-line typescript/no-namespace
  namespace Express {
    interface Request {
      /** Set by `authenticate` on everything below /v1. */
      account?: Account;
    }
  }
}

/** RFC 9110, section 11.6.1: one challenge per scheme that would do. */
const challenges = ['Bearer realm="oncekey"', 'Basic realm="oncekey", charset="UTF-8"'];

/** The scope of idempotency keys: test and live keys of one account never meet. */
export function scopeOf(account: Account): string {
  return `${account.id}/${account.livemode ? "live" : "test"}`;
}

/** The account of a scope that {@link scopeOf} made, where there is no request any more to ask. */
export function accountOfScope(scope: string): Account {
  const [id, environment] = scope.split("/");
  if (id === undefined || (environment !== "live" && environment !== "test"))
    throw new Error("this is no scope of the server");
  return { id, livemode: environment === "live" };
}

/** The account that `authenticate` found; a route without that middleware is a fault of the server. */
export function accountOf(req: { readonly account?: Account }): Account {
  if (req.account === undefined) throw new Error("a route of accounts is not behind authenticate");
  return req.account;
}

/** Accepts `Bearer <key>`, and `Basic` with the key as user name and no password, as Stripe's curl examples send it. */
export function authenticate(accounts: ReadonlyMap<string, Account>): RequestHandler {
  const known = [...accounts].map(([key, account]) => ({ digest: digestOf(key), account }));
  return (req, _res, next) => {
    const sent = apiKeyOf(req.headers.authorization);
    if (sent === undefined) {
      const detail =
        "Send an API key: `Authorization: Bearer sk_…`, or Basic with the key as user name and no password.";
      throw unauthorized(detail);
    }
    const digest = digestOf(sent);
    // Every key is compared, so that the time tells neither which one is near nor how many there are.
    const matches = known.filter((entry) => timingSafeEqual(entry.digest, digest));
    const [match] = matches;
    if (match === undefined) throw unauthorized(`Invalid API Key provided: ${masked(sent)}`);
    req.account = match.account;
    next();
  };
}

function unauthorized(detail: string): ApiError {
  return new ApiError("unauthorized", detail, { headers: { "WWW-Authenticate": challenges } });
}

function apiKeyOf(header: string | undefined): string | undefined {
  const [, scheme, credentials] = /^(\S+) +(\S+)$/.exec(header ?? "") ?? [];
  if (scheme === undefined || credentials === undefined) return undefined;
  if (scheme.toLowerCase() === "bearer") return credentials;
  if (scheme.toLowerCase() !== "basic") return undefined;
  const [name = "", ...password] = Buffer.from(credentials, "base64").toString("utf8").split(":");
  // A password would be ignored, and its owner would believe that it protects something.
  return name !== "" && password.join(":") === "" ? name : undefined;
}

/** Digests have one length, whatever was sent, which the comparison in constant time needs. */
function digestOf(key: string): Buffer {
  return createHash("sha256").update(key).digest();
}

/** Enough to see which kind of key was sent, and none of its secret. */
function masked(key: string): string {
  return `${/^sk_(?:test_|live_)?/.exec(key)?.[0] ?? ""}…`;
}
