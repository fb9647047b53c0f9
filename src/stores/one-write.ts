/**
 * Several statements in one write, answered together: one round trip. Owns: what is known of them when an answer is missing, and
 * that a name is prepared on a connection exactly when it is used. Must never send anything after its caller was told that it
 * failed.
 *
 * Statements travel behind each other and end with one Sync; behind one that fails the server skips everything up to the Sync
 * (PostgreSQL, 55.2.4 Pipelining). This is a `Submittable` as pg-cursor and pg-copy-streams are. Of pg's connection it uses what those have
 * used for years.
 */
import type { PoolClient } from "pg";
import { within } from "./time-limit.js";
import { encodeCalls } from "./wire-messages.js";
import type { WireCall, WireValue } from "./wire-messages.js";

export interface WireStatement {
  /** Undefined: not prepared under a name. */
  readonly name?: string | undefined;
  readonly text: string;
  /** Strings, numbers, buffers and null. */
  readonly values: readonly unknown[];
}

export interface WireAnswer {
  /** Columns in their order, as the server's text. */
  readonly rows: readonly (readonly (string | null)[])[];
  /** The server's tag, such as `COMMIT` or `INSERT 0 1`. */
  readonly tag: string;
}

export type Written =
  | { readonly kind: "answered"; readonly answers: readonly WireAnswer[] }
  | {
      readonly kind: "failed";
      readonly cause: unknown;
      /** Statements that were answered before. */
      readonly answered: number;
      /** False: nothing was sent, and nothing will be. */
      readonly isSent: boolean;
    };

/** What is used of pg's connection. */
interface Wire {
  /** Texts by the names under which they are prepared. */
  readonly parsedStatements: Record<string, string>;
  readonly stream: { readonly writable?: boolean; write(bytes: Buffer): unknown };
}

/** False for clients that are not on pg's own connection (pg-native, look-alikes), and for those that pipeline by themselves. */
export function takesOneWrite(client: PoolClient): boolean {
  const { connection, pipeline } = client as { connection?: unknown; pipeline?: unknown };
  if (pipeline === true || typeof connection !== "object" || connection === null) return false;
  const { parsedStatements, stream } = connection as {
    parsedStatements?: unknown;
    stream?: { write?: unknown };
  };
  return typeof parsedStatements === "object" && typeof stream?.write === "function";
}

/**
 * Sends the statements and waits for all of their answers. Never rejects. A write that failed for the time, or for anything
 * else than an error that the server sent, may still be under way: its connection must not be used again.
 */
export async function writeTogether(
  client: PoolClient,
  statements: readonly WireStatement[],
  timeoutMs: number,
): Promise<Written> {
  const answers: WireAnswer[] = [];
  let isSent = false;
  let isGivenUp = false;
  try {
    const calls = statements.map(toCall);
    const submit = (wire: Wire): Error | null => {
      // It waited behind another statement until nobody wanted it.
      if (isGivenUp) return new Error("given up before it was sent");
      if (wire.stream.writable === false) return new Error("the connection is gone");
      isSent = true;
      send(wire, calls);
      return null;
    };
    await within(submitTo(client, calls, submit, answers), timeoutMs);
    return { kind: "answered", answers };
  } catch (cause) {
    isGivenUp = true;
    return { kind: "failed", cause, answered: answers.length, isSent };
  }
}

type Call = Omit<WireCall, "isParsed">;

function toCall({ name = "", text, values }: WireStatement): Call {
  return { name, text, values: values.map(toWireValue) };
}

function toWireValue(value: unknown): WireValue {
  if (value === null || typeof value === "string" || Buffer.isBuffer(value)) return value;
  if (typeof value === "number") return String(value);
  if (value instanceof Uint8Array)
    return Buffer.from(value.buffer, value.byteOffset, value.byteLength);
  throw new TypeError(`a statement was given a value of type ${typeof value}`);
}

function submitTo(
  client: PoolClient,
  calls: readonly Call[],
  submit: (wire: Wire) => Error | null,
  answers: WireAnswer[],
): Promise<void> {
  return new Promise((resolve, reject) => {
    let rows: WireAnswer["rows"][number][] = [];
    let wire: Wire | undefined;
    // Instrumentation reads the text, wraps the callback and may copy the object: so the callback is found by `this`, and
    // nothing is inherited. There is no name, under which pg would note the wrong one of several texts as prepared.
    const query = {
      text: calls.map(({ text }) => text).join(";\n"),
      callback: (error: unknown): void => (error === null ? resolve() : reject(asError(error))),
      submit(connection: Wire): Error | null {
        wire = connection;
        return submit(connection);
      },
      handleDataRow({ fields }: { readonly fields: WireAnswer["rows"][number] }): void {
        rows.push(fields);
      },
      handleCommandComplete({ text }: { readonly text: string }): void {
        const call = calls[answers.length];
        if (wire !== undefined && call !== undefined && call.name !== "")
          wire.parsedStatements[call.name] = call.text;
        answers.push({ rows, tag: text });
        rows = [];
      },
      handleError(error: unknown): void {
        forget(wire, calls[answers.length]);
        this.callback(error);
      },
      handleReadyForQuery(): void {
        this.callback(null);
      },
    };
    // Pg gives the object back; a wrapper may give a promise instead.
    const given: unknown = client.query(query as unknown as Parameters<PoolClient["query"]>[0]);
    Promise.resolve(given).catch(reject);
  });
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error("the statements failed", { cause: error });
}

/** A statement that failed is prepared anew the next time: it may be gone, or its plan of no more use. */
function forget(wire: Wire | undefined, call: Call | undefined): void {
  if (wire !== undefined && call !== undefined && call.name !== "")
    delete wire.parsedStatements[call.name];
}

/**
 * Behind an error the server skips a Parse, and an error of Bind or Execute comes after one that it has carried out. So a name
 * counts as prepared when its statement was answered, and is closed first where that is not known.
 */
function send({ stream, parsedStatements }: Wire, calls: readonly Call[]): void {
  const wired = calls.map(({ name, text, values }) => {
    const isParsed = name !== "" && parsedStatements[name] === text;
    if (name !== "" && !isParsed) delete parsedStatements[name];
    return { name, text, values, isParsed };
  });
  stream.write(encodeCalls(wired));
}
