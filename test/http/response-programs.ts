/** Random handlers: what a Node handler may call on its response, as data that shrinks to something readable. */
import fc from "fast-check";
import type { OutgoingHttpHeaders, ServerResponse } from "node:http";

type Value = string | number | string[];

export type Call =
  | { readonly do: "setHeader"; readonly name: string; readonly value: Value }
  | { readonly do: "appendHeader"; readonly name: string; readonly value: string }
  | { readonly do: "removeHeader"; readonly name: string }
  | { readonly do: "status"; readonly status: number; readonly reason: string | undefined }
  | {
      readonly do: "writeHead";
      readonly status: number;
      readonly reason: string | undefined;
      readonly headers: readonly (readonly [string, string])[];
      readonly form: "none" | "object" | "flat";
    }
  | { readonly do: "write"; readonly chunk: Chunk; readonly wait: boolean }
  | { readonly do: "end"; readonly chunk: Chunk | undefined }
  | { readonly do: "flushHeaders" | "cork" | "uncork" | "pause" };

interface Chunk {
  readonly as: "text" | "buffer" | "bytes" | BufferEncoding;
  readonly text: string;
}

const names = fc.constantFrom("X-App", "x-app", "X-One", "X-Two", "Link", "Content-Type", "ETag");
const text = fc.constantFrom("", "a", "bc", "some words", "\u00e9\u20ac", "x".repeat(40));
const plain = fc.constantFrom("1", "two", "<a>; rel=b", "text/plain");
const chunk: fc.Arbitrary<Chunk> = fc.record({
  as: fc.constantFrom("text", "buffer", "bytes", "utf8", "latin1", "base64", "hex", "utf16le"),
  text,
});
const status = fc.constantFrom(200, 201, 202, 204, 303, 304, 402, 404, 418, 500, 599);
const reason = fc.constantFrom(undefined, undefined, "Fine", "Short and stout");

const call: fc.Arbitrary<Call> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({ do: fc.constant("write" as const), chunk, wait: fc.boolean() }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant("setHeader" as const),
      name: names,
      value: fc.oneof(plain, fc.integer({ min: 0, max: 99 }), fc.array(plain, { minLength: 1 })),
    }),
  },
  fc.record({ do: fc.constant("appendHeader" as const), name: names, value: plain }),
  { weight: 2, arbitrary: fc.record({ do: fc.constant("removeHeader" as const), name: names }) },
  fc.record({ do: fc.constant("status" as const), status, reason }),
  fc.record({
    do: fc.constant("writeHead" as const),
    status,
    reason,
    headers: fc.uniqueArray(fc.tuple(names, plain), {
      selector: ([name]) => name.toLowerCase(),
      maxLength: 3,
    }),
    form: fc.constantFrom("none" as const, "object" as const, "flat" as const),
  }),
  fc.record({ do: fc.constantFrom("flushHeaders", "cork", "uncork", "pause") }),
  fc.record({ do: fc.constant("end" as const), chunk: fc.option(chunk, { nil: undefined }) }),
);

/** Calls of a handler, of which the last one ends the response. */
export const programs: fc.Arbitrary<readonly Call[]> = fc
  .tuple(
    fc.array(call, { maxLength: 12 }),
    fc.record({ do: fc.constant("end" as const), chunk: fc.option(chunk, { nil: undefined }) }),
  )
  .map(([calls, last]) => [...calls, last]);

/** Runs the calls one after the other; what they throw is told, as a handler that goes on would see it. */
export async function runProgram(res: ServerResponse, calls: readonly Call[]): Promise<string[]> {
  const seen: string[] = [];
  // Node tells a write after the end by an event, too.
  res.on("error", () => undefined);
  let hasEnded = false;
  for (const one of calls) {
    // What Node does after the end is held in examples, not here.
    if (hasEnded) break;
    try {
      await perform(res, one);
      seen.push(`${one.do}: ${res.headersSent} ${res.writableEnded}`);
    } catch (error) {
      seen.push(`${one.do}: ${(error as { code?: string }).code}`);
    }
    hasEnded = one.do === "end";
  }
  return seen;
}

async function perform(res: ServerResponse, one: Call): Promise<void> {
  switch (one.do) {
    case "setHeader":
      // Node adds to a list in place.
      res.setHeader(one.name, Array.isArray(one.value) ? [...one.value] : one.value);
      return;
    case "appendHeader":
      res.appendHeader(one.name, one.value);
      return;
    case "removeHeader":
      res.removeHeader(one.name);
      return;
    case "status":
      res.statusCode = one.status;
      if (one.reason !== undefined) res.statusMessage = one.reason;
      return;
    case "writeHead":
      callWriteHead(res, one);
      return;
    case "write": {
      const [bytes, encoding] = toArguments(one.chunk);
      // Of a corked response nothing leaves, and nobody is called back.
      if (!one.wait || res.writableCorked > 0) {
        res.write(bytes, encoding);
        return;
      }
      await new Promise<void>((resolve) => res.write(bytes, encoding, () => resolve()));
      return;
    }
    case "end": {
      if (one.chunk === undefined) res.end();
      else res.end(...toArguments(one.chunk));
      return;
    }
    case "pause":
      await new Promise(setImmediate);
      return;
    default:
      res[one.do]();
  }
}

function callWriteHead(res: ServerResponse, one: Call & { do: "writeHead" }): void {
  const headers: OutgoingHttpHeaders | string[] | undefined =
    one.form === "none"
      ? undefined
      : one.form === "object"
        ? Object.fromEntries(one.headers)
        : one.headers.flat();
  if (one.reason === undefined) res.writeHead(one.status, headers);
  else res.writeHead(one.status, one.reason, headers);
}

function toArguments({ as, text: words }: Chunk): [string | Uint8Array, BufferEncoding] {
  switch (as) {
    case "text":
      return [words, "utf8"];
    case "buffer":
      return [Buffer.from(words), "utf8"];
    case "bytes":
      return [new Uint8Array(Buffer.from(words)), "utf8"];
    default:
      return [Buffer.from(words).toString(as), as];
  }
}
