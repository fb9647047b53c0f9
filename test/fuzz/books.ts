/**
 * What the promises of DESIGN, section 2, allow for each key. Owns: a model of every key that was sent, fed with each answer;
 * an answer that the model does not allow becomes a complaint. It knows nothing of Postgres; the round compares it with the rows.
 */
import { createHash } from "node:crypto";

import type { Answer, Ask } from "./exchange.js";

export type Route = "charges" | "orders" | "checkouts";

/** What a request is, as far as its answer can be foretold. */
export type Sent = {
  readonly route: Route;
  /** As the server makes it: account and environment. */
  readonly scope: string;
  readonly key: string | undefined;
  /** Names what is asked for: the same name is the same request, however it is written. `?`: nobody can tell. */
  readonly variant: string;
  /** `work`: valid, so that it must not be refused; `refuse`: it must be, and take no key; `either`: nobody can tell. */
  readonly must: "work" | "either" | { readonly refuse: readonly number[] };
  /** How a client asks for the outcome after its connection broke. */
  readonly retry?: { readonly ask: Ask; readonly variant: string };
};

type Entry = {
  readonly scope: string;
  readonly key: string;
  readonly variants: Set<string>;
  open: number;
  /** Several at once, or one whose client left; lasts until the key is quiet. */
  crowded: boolean;
  /** A request was sent whose answer never came. */
  unanswered: Sent | undefined;
  stored:
    | {
        readonly digest: string;
        readonly variant: string;
        readonly made: boolean;
        readonly route: Route;
      }
    | undefined;
  /** Stored answers that were not marked as replays. */
  firsts: number;
};

/** The variant of a request that the server may read as another one, such as one in a charset that it does not know. */
export const anyVariant = "?";

export type Opened = {
  readonly sent: Sent;
  readonly entry: Entry | undefined;
  readonly known: Entry["stored"];
};

export type Books = {
  /** Before the request is written. */
  open(sent: Sent): Opened;
  answered(opened: Opened, answer: Answer): void;
  /** To a request of which nothing is foretold but that the server does not fail. */
  answeredOther(name: string, answer: Answer): void;
  /** The connection ended before the answer did. */
  unanswered(opened: Opened): void;
  complain(text: string): void;
  /** Requests whose outcome nobody has seen yet. */
  unsettled(): Sent[];
  /** Keys, `scope key`, whose outcome no request of ours can tell. */
  untold(): Set<string>;
  /** The keys under which something was made, `scope key`, by route. */
  made(): Map<Route, Set<string>>;
  /** How often something was made without a key. */
  readonly unkeyed: Readonly<Record<Route, number>>;
  readonly complaints: readonly string[];
  readonly complaintCount: number;
  readonly keys: number;
  /** Answers by status and code. */
  readonly answers: Readonly<Record<string, number>>;
};

/** More would only repeat them. */
const keptComplaints = 50;
/** The documented 503s; on healthy servers none of them should be needed often. */
const temporary = new Set([
  "store_unavailable",
  "attempt_failed",
  "transaction_conflict",
  "not_ready",
]);

export function codeOf({ headers, bytes }: Answer): string {
  // HEAD is answered without the body.
  if (bytes.length === 0) return "";
  if (!String(headers["content-type"]).startsWith("application/problem+json")) return "";
  return (JSON.parse(bytes.toString()) as { code?: string }).code ?? "";
}

export function createBooks(): Books {
  const entries = new Map<string, Entry>();
  const complaints: string[] = [];
  const answers: Record<string, number> = {};
  const unkeyed: Record<Route, number> = { charges: 0, orders: 0, checkouts: 0 };
  let complaintCount = 0;
  let unclear = 0;

  const complain = (text: string): void => {
    complaintCount += 1;
    if (complaints.length < keptComplaints) complaints.push(text);
  };
  const count = (answer: Answer): string => {
    const end = `${answer.status} ${codeOf(answer)}`.trim();
    answers[end] = (answers[end] ?? 0) + 1;
    return end;
  };
  const entryOf = ({ scope, key }: Sent): Entry | undefined => {
    if (key === undefined) return undefined;
    const name = `${scope} ${key}`;
    const existing = entries.get(name);
    if (existing !== undefined) return existing;
    const entry: Entry = {
      scope,
      key,
      variants: new Set(),
      open: 0,
      crowded: false,
      unanswered: undefined,
      stored: undefined,
      firsts: 0,
    };
    entries.set(name, entry);
    return entry;
  };
  const close = (entry: Entry): void => {
    entry.open -= 1;
    if (entry.open === 0 && entry.unanswered === undefined) entry.crowded = false;
  };

  return {
    complain,
    complaints,
    answers,
    unkeyed,
    get complaintCount() {
      return complaintCount;
    },
    get keys() {
      return entries.size;
    },
    open(sent) {
      const entry = typeof sent.must === "object" ? undefined : entryOf(sent);
      if (entry === undefined) return { sent, entry, known: undefined };
      // Two of the unclear ones need not be the same.
      const variant = sent.variant === anyVariant ? `? ${(unclear += 1)}` : sent.variant;
      entry.variants.add(variant);
      entry.crowded ||= entry.open > 0;
      entry.open += 1;
      return { sent, entry, known: entry.stored };
    },
    answeredOther(name, answer) {
      const end = count(answer);
      if (hasFailed(answer.status, codeOf(answer))) complain(`a failure: ${end} to ${name}`);
    },
    answered(opened, answer) {
      const code = codeOf(answer);
      const end = count(answer);
      const problem =
        opened.entry === undefined
          ? judgeUnkeyed(opened, answer, code, unkeyed)
          : judgeKeyed(opened.entry, opened, answer, code);
      if (problem !== undefined) {
        const { route, scope, key, variant } = opened.sent;
        complain(`${problem}: ${end} to ${route} ${scope} ${JSON.stringify(key)} ${variant}`);
      }
      if (opened.entry !== undefined) close(opened.entry);
    },
    unanswered({ sent, entry }) {
      if (entry === undefined) return;
      entry.unanswered = sent;
      entry.crowded = true;
      close(entry);
    },
    unsettled: () =>
      [...entries.values()].flatMap(({ unanswered, stored }) =>
        unanswered === undefined || stored !== undefined ? [] : [unanswered],
      ),
    untold() {
      const left = [...entries.values()].filter(
        ({ unanswered, stored }) => unanswered !== undefined && stored === undefined,
      );
      return new Set(left.map(({ scope, key }) => `${scope} ${key}`));
    },
    made() {
      const made = new Map<Route, Set<string>>();
      for (const { scope, key, stored } of entries.values()) {
        if (stored?.made !== true) continue;
        const set = made.get(stored.route) ?? new Set();
        made.set(stored.route, set.add(`${scope} ${key}`));
      }
      return made;
    },
  };
}

/** Answers that are stored under a key: what was made, and definitive failures. */
function isStored(status: number, code: string): boolean {
  return (status >= 200 && status < 300) || code === "card_declined" || code === "out_of_stock";
}

function hasFailed(status: number, code: string): boolean {
  return status >= 500 && !(status === 503 && temporary.has(code));
}

/** Undefined, or what is wrong. */
function judgeUnkeyed(
  { sent: { must, route } }: Opened,
  { status }: Answer,
  code: string,
  unkeyed: Record<Route, number>,
): string | undefined {
  if (status >= 500) return hasFailed(status, code) ? "a failure" : undefined;
  if (status === 201) unkeyed[route] += 1;
  if (typeof must === "object")
    return must.refuse.includes(status) ? undefined : `not refused with ${must.refuse.join()}`;
  return must === "work" && !isStored(status, code) ? "a valid request was refused" : undefined;
}

/** Undefined, or what is wrong. */
function judgeKeyed(
  entry: Entry,
  { sent, known }: Opened,
  answer: Answer,
  code: string,
): string | undefined {
  const { status } = answer;
  if (status >= 500) return hasFailed(status, code) ? "a failure" : undefined;
  if (isStored(status, code)) return noteStored(entry, sent, answer);
  if (code === "key_reused") {
    const first = known ?? entry.stored;
    const isSame = first?.variant === sent.variant && sent.variant !== anyVariant;
    if (isSame) return "the same request was taken for another";
    return entry.variants.size > 1 ? undefined : "a key that was used once was called reused";
  }
  if (sent.must === "either") return undefined;
  // A running entry that a slow Redis keeps may cause this for two seconds, also behind the stored answer (DESIGN, 8.9).
  if (code === "in_progress")
    return entry.crowded || known !== undefined ? undefined : "nothing was in progress";
  if (known !== undefined) return "a stored answer was not given again";
  return "a valid request was refused";
}

function noteStored(entry: Entry, sent: Sent, answer: Answer): string | undefined {
  const { status, headers, bytes } = answer;
  const digest = createHash("sha256")
    .update(`${status} ${String(headers["location"])} ${String(headers["content-type"])} `)
    .update(bytes)
    .digest("base64");
  if (headers["idempotent-replayed"] !== "true") entry.firsts += 1;
  if (entry.firsts > 1) return "the work was done again";
  entry.unanswered = undefined;
  entry.stored ??= { digest, variant: sent.variant, made: status < 300, route: sent.route };
  const both = [entry.stored.variant, sent.variant];
  if (both[0] !== both[1] && !both.includes(anyVariant))
    return "another request got the stored answer";
  return entry.stored.digest === digest ? undefined : "a retry got a different answer";
}
