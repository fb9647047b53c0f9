/** What broken requests are made of: the parts of a valid one, to be changed before they become bytes. */
import { anyVariant, type Sent } from "./books.js";
import type { Draw } from "./draw.js";
import type { Raw } from "./exchange.js";
import type { Case, Planned, Requests } from "./requests.js";

export type Hostile = Raw & {
  readonly kind: string;
  /** One for each answer, in the order they come. */
  readonly sent: readonly Sent[];
};

export type Parts = {
  method: string;
  target: string;
  version: string;
  lines: string[];
  body: Buffer;
  /** Default: Content-Length of the body. */
  framing: string[] | undefined;
};

export const eol = "\r\n";

export function partsOf(planned: Planned): Parts {
  return {
    method: planned.method,
    target: planned.path,
    version: "HTTP/1.1",
    lines: ["Host: fuzz", ...planned.headers.map(([name, value]) => `${name}: ${value}`)],
    body: planned.body ?? Buffer.alloc(0),
    framing: undefined,
  };
}

/** Header text as latin1: a character up to U+00FF is one byte on the wire. */
export function bytesOf({ method, target, version, lines, body, framing }: Parts): Buffer {
  const all = [...lines, ...(framing ?? [`Content-Length: ${body.byteLength}`])];
  const head = `${method} ${target} ${version}${eol}${all.join(eol)}${eol}${eol}`;
  return Buffer.concat([Buffer.from(head, "latin1"), body]);
}

export function chunk(data: Buffer, size = data.byteLength.toString(16)): Buffer {
  return Buffer.concat([Buffer.from(`${size}${eol}`), data, Buffer.from(eol)]);
}

export type Context = {
  readonly draw: Draw;
  readonly given: Case;
  readonly planned: Planned;
  readonly requests: Requests;
};

/** Nobody can tell what a server makes of it; if it does the work, it must be the work of this key. */
export const either = ({ planned }: Context): Sent[] => [{ ...planned.sent!, must: "either" }];
/** As `either`, and it may also be another request than the one that it was made from. */
export const unclear = (context: Context): Sent[] =>
  either(context).map((sent) => ({ ...sent, variant: anyVariant }));
export const work = ({ planned }: Context): Sent[] => [planned.sent!];
export const refused = ({ planned }: Context, ...refuse: number[]): Sent[] => [
  { ...planned.sent!, key: undefined, must: { refuse } },
];

export type Made = Omit<Hostile, "kind">;

export function one(bytes: Buffer, sent: readonly Sent[], after: Raw["after"] = "wait"): Made {
  return { pieces: [bytes], answers: 1, after, sent };
}

export function changed(context: Context, change: (parts: Parts) => void): Buffer {
  const parts = partsOf(context.planned);
  change(parts);
  return bytesOf(parts);
}
