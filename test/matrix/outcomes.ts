/** What a client gets where its retry is not answered by a replay, row by row. */
import { once } from "node:events";

import { waitFor } from "../support/wait-for.js";
import { expectOwnHeaders, expectReplayOf } from "./compare.js";
import { exchange, openSocket, parseAnswers, valueOf, type Answer } from "./wire.js";

/** One cell with one store: a key of its own, and two processes' worth of the same app. */
export interface Drive {
  readonly key: string;
  readonly status: number;
  /** Every byte of what the app alone answers. */
  bare(): Promise<Buffer>;
  /** Asks the app under the middleware. */
  first(): Promise<Buffer>;
  /**
   * The same request on a new connection, to another process where the store has more than one; again while it is told
   * `in_progress`, which what Redis has not heard of yet may cause for a moment.
   */
  retry(): Promise<Buffer>;
  /** The same request, once. */
  retryOnce(): Promise<Buffer>;
  /** As above, with other request headers. */
  withHeaders(headers: Readonly<Record<string, string>>): Promise<Buffer>;
  /** The bytes of the request under this key. */
  request(key: string, connection: "close" | "keep-alive"): string;
  readonly ports: { readonly first: number; readonly second: number };
  /** How often the handler has run under a key. */
  runs(key?: string): number;
}

export interface Outcome {
  /** What stands in the table. */
  readonly cell: string;
  check(drive: Drive): Promise<void>;
}

export function onlyAnswer(bytes: Buffer): Answer {
  const [answer, ...more] = parseAnswers(bytes);
  if (answer === undefined || more.length > 0)
    throw new Error(`One answer was expected: ${bytes.toString("latin1", 0, 500)}`);
  return answer;
}

/** What a client gets that tries again while its key is in progress. */
export async function untilSettled(port: number, bytes: string): Promise<Buffer> {
  let answer: Buffer = Buffer.alloc(0);
  const isSettled = async (): Promise<boolean> => {
    answer = await exchange(port, bytes);
    return !answer.includes('"code":"in_progress"');
  };
  await waitFor(isSettled, { what: "the key to be settled" });
  return answer;
}

export function expectProblem(bytes: Buffer, status: number, code: string): void {
  const answer = onlyAnswer(bytes);
  expect({
    status: answer.status,
    type: valueOf(answer.headers, "content-type"),
    code: (JSON.parse(answer.body.toString()) as { code: unknown }).code,
  }).toEqual({ status, type: "application/problem+json", code });
}

/** The first client gets all of it, and nobody gets it again. */
export const largeIsNotStored = {
  outcome: {
    cell: "409 `response_not_stored`",
    check: async (drive: Drive) => {
      const [bare, first] = [onlyAnswer(await drive.bare()), onlyAnswer(await drive.first())];
      expect(first.statusLine).toBe(bare.statusLine);
      expect(first.body.equals(bare.body)).toBe(true);
      expect(valueOf(first.headers, "idempotency-stored")).toBe("false");
      expectProblem(await drive.retry(), 409, "response_not_stored");
      expectProblem(await drive.retry(), 409, "response_not_stored");
      expect(drive.runs()).toBe(1);
    },
  },
  note: "The first client gets the whole response, with `Idempotency-Stored: false`. The work is never repeated.",
};

/** Of a response that cannot be kept the client gets all, as the app alone writes it; nobody gets it again. */
export const streamed = {
  ...largeIsNotStored,
  note: "It passes as it is written, with `Idempotency-Stored: false`, and cannot be replayed. The work is never repeated.",
};

/** What the handler did is not known, so that nobody does it again; its client is cut off, as by the app alone. */
export const brokenOff = {
  outcome: {
    cell: "409 `response_not_stored`",
    check: async (drive: Drive) => {
      expect((await drive.first()).toString("latin1")).toBe("");
      expectProblem(await drive.retry(), 409, "response_not_stored");
      expectProblem(await drive.first(), 409, "response_not_stored");
      expect(drive.runs()).toBe(1);
    },
  },
  note: "The first client's connection ends without an answer. What the handler did is not known, so it is never repeated.",
};

/** The stack ends the connection by itself, which looks like a client that has hung up: the handler is believed to go on. */
export const cutByTheStack = {
  outcome: {
    cell: "409 `in_progress`",
    check: async (drive: Drive) => {
      expect((await drive.first()).toString("latin1")).toBe("");
      expectProblem(await drive.retryOnce(), 409, "in_progress");
      expect(drive.runs()).toBe(1);
    },
  },
  note: "Its default error handler destroys the connection, which looks like a client that has hung up. The key is held for `maxRunMs` and is `outcome_unknown` then; the work is never repeated.",
};

/** The client is told; the handler is still at it. */
export const timesOut: Outcome = {
  cell: "504 `handler_timeout`, then 409 `in_progress`",
  check: async (drive) => {
    expectProblem(await drive.first(), 504, "handler_timeout");
    expectProblem(await drive.retryOnce(), 409, "in_progress");
    expect(drive.runs()).toBe(1);
  },
};

/** The client waits; its key is held, and nobody else runs it. */
export const neverAnswers: Outcome = {
  cell: "409 `in_progress`",
  check: async (drive) => {
    const waiting = openSocket(drive.ports.first, drive.request(drive.key, "close"));
    const received: Buffer[] = [];
    waiting.on("data", (chunk: Buffer) => received.push(chunk));
    await waitFor(() => drive.runs() === 1, { what: "the handler to run" });
    expectProblem(await drive.retryOnce(), 409, "in_progress");
    waiting.destroy();
    await once(waiting, "close");
    expectProblem(await drive.retryOnce(), 409, "in_progress");
    expect(received).toEqual([]);
    expect(drive.runs()).toBe(1);
  },
};

/** Two keys on one connection, sent before either is answered: answers in order, and so are the replays. */
export const pipelined: Outcome = {
  cell: "✓",
  check: async (drive) => {
    const keys = [`${drive.key}-a`, `${drive.key}-b`] as const;
    const both = drive.request(keys[0], "keep-alive") + drive.request(keys[1], "close");
    const firsts = parseAnswers(await exchange(drive.ports.first, both));
    for (const key of keys) await untilSettled(drive.ports.second, drive.request(key, "close"));
    const replays = parseAnswers(await exchange(drive.ports.second, both));
    expect([firsts.length, replays.length]).toEqual([2, 2]);
    for (const [index, key] of keys.entries()) {
      const [first, replay] = [firsts[index] as Answer, replays[index] as Answer];
      expect(first.status).toBe(drive.status);
      expectOwnHeaders(first, key, false);
      expectOwnHeaders(replay, key, true);
      expectReplayOf(first, replay);
      expect(drive.runs(key)).toBe(1);
    }
  },
};

/** Refused before any handler, so that the key is as free as before. */
export const tooManyHeaders: Outcome = {
  cell: "431",
  check: async (drive) => {
    // Not so much that the server ends the connection with bytes unread, which would reset it under its own answer.
    const headers = { "X-Large": "x".repeat(40_000) };
    expect(onlyAnswer(await drive.withHeaders(headers)).status).toBe(431);
    expect(drive.runs()).toBe(0);
    const first = onlyAnswer(await drive.first());
    expectOwnHeaders(first, drive.key, false);
    expectReplayOf(first, onlyAnswer(await drive.retry()));
    expect(drive.runs()).toBe(1);
  },
};

/** The response is read before anything leaves, so that its failure is known in time to say so. */
export const failsWhole = {
  outcome: {
    cell: "✓ 500",
    check: async (drive: Drive) => {
      const first = onlyAnswer(await drive.first());
      expect([first.status, first.body.toString()]).toEqual([
        500,
        '{"error":"the source is gone"}',
      ]);
      expectOwnHeaders(first, drive.key, false);
      expectReplayOf(first, onlyAnswer(await drive.retry()));
      expect(drive.runs()).toBe(1);
    },
  },
  note: "The body is read before anything leaves: the app's `onError` renders the failure, which is stored and replayed.",
};
