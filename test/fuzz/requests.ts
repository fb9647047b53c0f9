/**
 * Well-formed requests of every kind: new keys, repeated ones with the same and with another body, keys and bodies that must
 * be refused, reads, and every operation of openapi.yaml. What is planned depends on the seed alone and never on an answer.
 */
import { readFileSync } from "node:fs";

import { parse } from "yaml";

import type { Route, Sent } from "./books.js";
import type { Draw } from "./draw.js";
import type { Ask } from "./exchange.js";
import { oddPart, wildBytes } from "./wild.js";

export type Planned = Ask & {
  /** Undefined for requests that make nothing. */
  readonly sent?: Sent;
};

/** A keyed request that is valid, to be repeated later. */
export type Case = {
  readonly sent: Sent & { key: string };
  readonly token: string;
  readonly fields: object;
};

/** As `ONCEKEY_API_KEYS` of the round has them. */
export const apiKeys = "sk_test_a=acct_a,sk_test_b=acct_b,sk_live_a=acct_a";
const scopes = [
  { token: "sk_test_a", scope: "acct_a/test" },
  { token: "sk_test_b", scope: "acct_b/test" },
  { token: "sk_live_a", scope: "acct_a/live" },
];
const json = ["Content-Type", "application/json"] as const;
const form = ["Content-Type", "application/x-www-form-urlencoded"] as const;

/** Repeats come soon, while the first may still run, or from among so many older keys. */
const recentCases = 24;
const olderCases = 4_000;

type Operation = { readonly method: string; readonly path: string };

/** Every operation that the API's description has, whichever are added to it. */
const operations: readonly Operation[] = (() => {
  const document = parse(readFileSync("openapi.yaml", "utf8")) as {
    paths: Record<string, Record<string, unknown>>;
  };
  return Object.entries(document.paths).flatMap(([path, item]) =>
    Object.keys(item)
      .filter((name) => /^(get|post|put|patch|delete)$/.test(name))
      .map((name) => ({ method: name.toUpperCase(), path })),
  );
})();

export type Requests = {
  next(): Planned;
  /** A valid request with a key of its own; every client may send it again. */
  freshCase(): Case;
  /** The request of a case, written in one of many ways that mean the same. */
  write(given: Case): Planned;
  /** One that was planned before, or a new one. */
  earlierCase(): Case;
};

export function createRequests(draw: Draw): Requests {
  const recent: Case[] = [];
  const older: Case[] = [];
  let variants = 0;

  const newVariant = (): string => `v${(variants += 1)}`;
  const newKey = (): string => {
    const name = draw.hex(24);
    return draw.chance(0.8)
      ? `key-${name}`
      : `${name.slice(0, 12)} ${draw.printable()} ${name.slice(12)}`;
  };
  const freshCase = (): Case => {
    const route = draw.weighted({ charges: 60, orders: 30, checkouts: 8 });
    const { token, scope } = draw.pick(scopes);
    // Some keys are used in every scope, where they must not meet.
    const shared = draw.chance(0.1) ? recent.at(-1)?.sent.key : undefined;
    const taken = recent.some(({ sent }) => sent.key === shared && sent.scope === scope);
    const key = shared === undefined || taken || older.length > 0 ? newKey() : shared;
    const made: Case = {
      token,
      fields: fieldsOf(draw, route),
      sent: { route, scope, key, variant: newVariant(), must: "work" },
    };
    recent.push(made);
    if (recent.length > recentCases) {
      const old = recent.shift()!;
      if (older.length < olderCases) older.push(old);
      else older[draw.int(olderCases)] = old;
    }
    return made;
  };
  const earlierCase = (): Case => {
    const list = older.length > 0 && draw.chance(0.4) ? older : recent;
    return list.length === 0 ? freshCase() : draw.pick(list);
  };
  const write = ({ sent, token, fields }: Case): Planned => {
    const request: Ask = {
      method: "POST",
      path: `/v1/${sent.route}`,
      headers: [authorization(draw, token), json, ["Idempotency-Key", keyText(draw, sent.key)]],
      body: Buffer.from(jsonText(draw, fields)),
    };
    return { ...request, sent: { ...sent, retry: { ask: request, variant: sent.variant } } };
  };

  const kinds: Readonly<Record<string, { weight: number; plan: () => Planned }>> = {
    fresh: { weight: 32, plan: () => write(freshCase()) },
    again: { weight: 30, plan: () => write(earlierCase()) },
    mismatch: { weight: 9, plan: () => mismatch(draw, earlierCase(), write) },
    unkeyed: { weight: 4, plan: () => unkeyed(draw, newVariant()) },
    badKey: { weight: 4, plan: () => badKey(draw, write(freshOf(draw, newVariant()))) },
    form: { weight: 2, plan: () => formCharge(draw, newKey(), newVariant()) },
    wildBody: { weight: 8, plan: () => wildBody(draw, earlierCase(), newKey(), newVariant()) },
    stranger: { weight: 3, plan: () => stranger(draw, write(earlierCase())) },
    read: { weight: 4, plan: () => read(draw) },
    operation: { weight: 4, plan: () => anyOperation(draw) },
  };
  const weights = Object.fromEntries(
    Object.entries(kinds).map(([name, { weight }]) => [name, weight]),
  );
  return { next: () => kinds[draw.weighted(weights)]!.plan(), freshCase, earlierCase, write };
}

function fieldsOf(draw: Draw, route: Route): object {
  const currency = draw.pick(["eur", "USD", "gbp"]);
  if (route === "orders") {
    const item = () => ({
      sku: draw.storableText(),
      quantity: 1 + draw.int(9),
      unit_amount: draw.int(9_999),
    });
    const items = Array.from({ length: 1 + draw.int(3) }, item);
    return { currency, items, ...(draw.chance(0.3) ? { customer: draw.storableText() } : {}) };
  }
  const source = draw.weighted({ tok_visa: 90, tok_chargeDeclined: 5, tok_slow_5: 5 });
  if (route === "checkouts") {
    const sku = draw.weighted({ mug: 60, shirt: 20, poster: 15, unicorn: 5 });
    return { currency, source, items: [{ sku, quantity: 1 }] };
  }
  const metadata = Object.fromEntries(
    Array.from({ length: 1 + draw.int(3) }, () => [draw.storableText(), draw.storableText()]),
  );
  return {
    amount: 1 + draw.int(99_999_998),
    currency,
    source,
    ...(draw.chance(0.3) ? { description: draw.storableText() } : {}),
    ...(draw.chance(0.3) ? { metadata } : {}),
  };
}

/** The same JSON with its members in another order and other white space, as clients in other languages write it. */
function jsonText(draw: Draw, value: unknown): string {
  if (draw.chance(0.5)) return JSON.stringify(value);
  const text = JSON.stringify(shuffled(draw, value), undefined, draw.int(3));
  if (draw.chance(0.5)) return text;
  return text.replaceAll(
    /[\u0080-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

function shuffled(draw: Draw, value: unknown): unknown {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  const entries = Object.entries(value).map(
    ([name, inner]) => [name, shuffled(draw, inner)] as const,
  );
  return Object.fromEntries(draw.chance(0.5) ? entries.toReversed() : entries);
}

function authorization(draw: Draw, token: string): readonly [string, string] {
  const basic = `Basic ${Buffer.from(`${token}:`).toString("base64")}`;
  return ["Authorization", draw.chance(0.8) ? `Bearer ${token}` : basic];
}

/** A key bare or as a structured-field string, which are the same key. */
function keyText(draw: Draw, key: string): string {
  if (!key.includes('"') && draw.chance(0.7)) return key;
  return `"${key.replaceAll(/["\\]/g, String.raw`\$&`)}"`;
}

function freshOf(draw: Draw, variant: string): Case {
  const { token, scope } = draw.pick(scopes);
  const sent = { route: "charges", scope, key: "unused", variant, must: "work" } as const;
  return { token, sent, fields: fieldsOf(draw, "charges") };
}

/** A key that is used already, for something else. */
function mismatch(draw: Draw, given: Case, write: (given: Case) => Planned): Planned {
  const differs = draw.pick(["chf", "sek", "nok", "?x=1", "?x=2"]);
  const sent = { ...given.sent, variant: `${given.sent.variant} ${differs}` };
  if (differs.startsWith("?"))
    return { ...write({ ...given, sent }), path: `/v1/${sent.route}${differs}` };
  return write({ ...given, fields: { ...given.fields, currency: differs }, sent });
}

function unkeyed(draw: Draw, variant: string): Planned {
  const { token, scope } = draw.pick(scopes);
  // The route of orders insists on a key.
  const route = draw.weighted({ charges: 8, orders: 1, checkouts: 1 });
  const must = route === "orders" ? { refuse: [400] } : "work";
  return {
    method: "POST",
    path: `/v1/${route}`,
    headers: [authorization(draw, token), json],
    body: Buffer.from(jsonText(draw, fieldsOf(draw, route))),
    sent: { route, scope, key: undefined, variant, must },
  };
}

function badKey(draw: Draw, planned: Planned): Planned {
  const bad = draw.pick([
    "",
    " ",
    '""',
    '"open',
    'in"side',
    "a".repeat(256),
    "ké",
    `"${"a".repeat(256)}"`,
    "tab\there",
    String.raw`"bad \escape"`,
    '"a" "b"',
    "\u00a0",
  ]);
  const headers = planned.headers.map(([name, value]) =>
    name === "Idempotency-Key" ? ([name, bad] as const) : ([name, value] as const),
  );
  const twice = [["idempotency-key", "another"] as const];
  return {
    ...planned,
    headers: draw.chance(0.3) ? [...planned.headers, ...twice] : headers,
    sent: { ...planned.sent!, key: undefined, must: { refuse: [400] } },
  };
}

function formCharge(draw: Draw, key: string, variant: string): Planned {
  const { token, scope } = draw.pick(scopes);
  const fields = new URLSearchParams({
    amount: String(1 + draw.int(99_999)),
    currency: "eur",
    source: "tok_visa",
    description: draw.storableText(),
    "metadata[note]": draw.storableText(),
  });
  return {
    method: "POST",
    path: "/v1/charges",
    headers: [authorization(draw, token), form, ["Idempotency-Key", keyText(draw, key)]],
    body: Buffer.from(fields.toString()),
    sent: { route: "charges", scope, key, variant, must: "work" },
  };
}

/** A body that is nearly right, or nothing like it. */
function wildBody(draw: Draw, earlier: Case, freshKey: string, variant: string): Planned {
  const key = draw.chance(0.5) ? earlier.sent.key : freshKey;
  const { route } = earlier.sent;
  return {
    method: "POST",
    path: `/v1/${route}`,
    headers: [
      authorization(draw, earlier.token),
      draw.chance(0.85) ? json : form,
      ["Idempotency-Key", keyText(draw, key)],
    ],
    body: wildBytes(draw, earlier.fields),
    sent: { route, scope: earlier.sent.scope, key, variant, must: "either" },
  };
}

/** Somebody whom the server does not know; the key must stay what it was. */
function stranger(draw: Draw, planned: Planned): Planned {
  const credentials = draw.pick([
    [],
    [["Authorization", "Bearer sk_test_nobody"] as const],
    [["Authorization", "Bearer"] as const],
    [["Authorization", "Basic ====:"] as const],
    [["Authorization", `Basic ${draw.bytes(20).toString("base64")}`] as const],
    [["Authorization", `Digest ${draw.printable()}`] as const],
  ]);
  const others = planned.headers.filter(([name]) => name !== "Authorization");
  const refused = { ...planned.sent!, must: { refuse: [401] } };
  return { ...planned, headers: [...credentials, ...others], sent: refused };
}

function read(draw: Draw): Planned {
  const { token } = draw.pick(scopes);
  const query = draw.pick([
    "",
    "?limit=3",
    `?limit=${oddPart(draw)}`,
    `?starting_after=${oddPart(draw)}`,
    `?${oddPart(draw)}=${oddPart(draw)}&limit[]=1&limit[a]=2`,
  ]);
  const path = draw.pick([
    `/v1/charges${query}`,
    `/v1/charges/${draw.chance(0.5) ? `ch_${draw.hex(24)}` : oddPart(draw)}`,
    `/v1/orders/or_${draw.hex(24)}`,
    `/v1/checkouts/${oddPart(draw)}`,
  ]);
  const headers = [
    ["Authorization", `Bearer ${token}`] as const,
    ["Idempotency-Key", "ignored"] as const,
  ];
  return { method: draw.chance(0.9) ? "GET" : "HEAD", path, headers, body: undefined };
}

const methods = [
  "GET",
  "HEAD",
  "POST",
  "PUT",
  "PATCH",
  "DELETE",
  "OPTIONS",
  "TRACE",
  "PROPFIND",
  "SEARCH",
];

/** Every path with every method, with and without a body that means nothing to it. */
function anyOperation(draw: Draw): Planned {
  const { method, path } = draw.pick(operations);
  const unknown = ["/", "/v1", "/v1/", "/favicon.ico", `/${oddPart(draw)}`, `/v1/${oddPart(draw)}`];
  const known = path.replaceAll(/\{[^}]+\}/g, () => oddPart(draw));
  const used = draw.chance(0.5) ? method : draw.pick(methods);
  const hasBody = used !== "GET" && used !== "HEAD" && used !== "TRACE" && draw.chance(0.6);
  return {
    method: used,
    path: draw.chance(0.7) ? known : draw.pick(unknown),
    headers: [
      ...(draw.chance(0.8)
        ? [["Authorization", `Bearer ${draw.pick(scopes).token}`] as const]
        : []),
      ...(hasBody ? [json] : []),
    ],
    body: hasBody ? Buffer.from(JSON.stringify(draw.value()) ?? "") : undefined,
  };
}
