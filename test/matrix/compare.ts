/**
 * What may differ between the app alone, the first answer and a replay. Owns: that list, and nothing is allowed that is not on it.
 */
import { valueOf, type Answer, type HeaderLine } from "./wire.js";

const ours = new Set([
  "idempotency-key",
  "original-request",
  "idempotency-expires",
  "idempotency-stored",
  "idempotent-replayed",
]);

/** Of the connection and the moment, not of the response. */
const ofTheConnection = new Set(["date", "connection", "keep-alive"]);

const without = (headers: readonly HeaderLine[], names: ReadonlySet<string>): HeaderLine[] =>
  headers.filter(([name]) => !names.has(name.toLowerCase()));

const only = (headers: readonly HeaderLine[], names: ReadonlySet<string>): HeaderLine[] =>
  headers.filter(([name]) => names.has(name.toLowerCase()));

/** Kept short in a failure's message: a body of 5 MB is told by its length and its ends. */
function bodyOf(answer: Answer): unknown {
  const { body } = answer;
  return body.length <= 4096
    ? body.toString("latin1")
    : {
        bytes: body.length,
        begins: body.toString("latin1", 0, 32),
        ends: body.toString("latin1", body.length - 32),
      };
}

export interface Allowed {
  /** Framed in another way than by the app alone, which sends a length. */
  readonly isReframed?: boolean;
  /** What the app alone sends that is never sent under a key. */
  readonly drops?: "interim" | "trailers";
  /** Stand in the first answer, in place of the lines of these names that the app alone sends. */
  readonly headers?: readonly HeaderLine[];
}

/**
 * The app is not changed by us: status line, headers and body are what it sends alone. The whole body is at hand when it
 * leaves, so that a length may stand where the app alone would send chunks.
 */
export function expectAsTheAppAlone(
  first: Answer,
  bare: Answer,
  { drops, headers, isReframed = false }: Allowed = {},
): void {
  const framing = new Set([...ofTheConnection, "transfer-encoding"]);
  if (
    isReframed ||
    bare.framing !== "length" ||
    valueOf(bare.headers, "content-length") === undefined
  )
    framing.add("content-length");
  if (drops === "trailers") framing.add("trailer");
  const mine = new Set([...framing, ...ours]);
  const told = (answer: Answer, not: ReadonlySet<string>): unknown => ({
    statusLine: answer.statusLine,
    headers: without(answer.headers, not),
    body: bodyOf(answer),
    interim: drops === "interim" ? "dropped" : answer.interim,
    trailers: drops === "trailers" ? "dropped" : answer.trailers,
  });
  if (headers !== undefined) {
    const named = new Set(headers.map(([name]) => name.toLowerCase()));
    expect(only(first.headers, named)).toEqual(headers);
    for (const name of named) for (const set of [mine, framing]) set.add(name);
  }
  expect(told(first, mine)).toEqual(told(bare, framing));
  expect(first.body.equals(bare.body)).toBe(true);
  if (drops !== undefined) {
    expect({ before: bare[drops].length > 0, under: first[drops] }).toEqual({
      before: true,
      under: [],
    });
  }
}

/** A replay is the first answer: the bytes, but for the date, the connection, cookies and the word that it is a replay. */
export function expectReplayOf(first: Answer, replay: Answer): void {
  const passing = new Set([...ofTheConnection, "idempotent-replayed"]);
  const told = (answer: Answer, not: ReadonlySet<string>): unknown => ({
    statusLine: answer.statusLine,
    headers: without(answer.headers, not),
    body: bodyOf(answer),
    framing: answer.framing,
    isComplete: answer.isComplete,
  });
  expect(told(replay, passing)).toEqual(told(first, new Set([...passing, "set-cookie"])));
  expect(replay.body.equals(first.body)).toBe(true);
}

/** A stored answer says whose it is and until when; a replay says that it is one. Their place and case are the adapter's. */
export function expectOwnHeaders(answer: Answer, key: string, isReplay: boolean): void {
  const lines = only(answer.headers, ours).map(([name, value]) => [name.toLowerCase(), value]);
  expect(lines).toHaveLength(isReplay ? 4 : 3);
  expect(Object.fromEntries(lines)).toEqual({
    "idempotency-key": key,
    "original-request": expect.stringMatching(/^req[-_]/),
    "idempotency-expires": expect.stringMatching(/ GMT$/),
    ...(isReplay ? { "idempotent-replayed": "true" } : {}),
  });
}
