/**
 * Bytes that no client library would send: broken framing, odd encodings, connections that end early. Each kind starts from
 * a valid keyed request, so that a server that reads it wrongly would do work twice and be seen doing it.
 */
import { brotliCompressSync, deflateSync, gzipSync } from "node:zlib";

import { brokenBodies } from "./broken-bodies.js";
import { brokenHeads } from "./broken-heads.js";
import type { Draw } from "./draw.js";
import {
  type Context,
  type Made,
  type Hostile,
  eol,
  work,
  partsOf,
  bytesOf,
  chunk,
  one,
  changed,
} from "./parts.js";
import type { Requests } from "./requests.js";

const valid: Record<string, (context: Context) => Made> = {
  "valid, in pieces": (context) => {
    const bytes = bytesOf(partsOf(context.planned));
    const pieces: Buffer[] = [];
    for (let at = 0; at < bytes.length;) {
      const size = 1 + context.draw.int(80);
      pieces.push(bytes.subarray(at, at + size));
      at += size;
    }
    return { pieces, answers: 1, after: "wait", sent: work(context) };
  },
  "valid, chunked": (context) => {
    const { draw } = context;
    const bytes = changed(context, (parts) => {
      const cut = draw.int(parts.body.length);
      const extension = draw.chance(0.3) ? ";name=value" : "";
      const [first, second] = [parts.body.subarray(0, cut), parts.body.subarray(cut)];
      const chunks = [first, second]
        .filter(({ length }) => length > 0)
        .map((data) => chunk(data, data.byteLength.toString(16) + extension));
      const trailer = draw.chance(0.3) ? `Trailing: yes${eol}` : "";
      parts.framing = ["Transfer-Encoding: chunked"];
      parts.body = Buffer.concat([...chunks, Buffer.from(`0${eol}${trailer}${eol}`)]);
    });
    return one(bytes, work(context));
  },
  "valid, compressed": (context) => {
    const bytes = changed(context, (parts) => {
      const name = context.draw.weighted({ gzip: 4, deflate: 1, br: 1 });
      const compress = { gzip: gzipSync, deflate: deflateSync, br: brotliCompressSync }[name];
      parts.body = compress(parts.body);
      parts.lines.push(`Content-Encoding: ${name}`);
    });
    return one(bytes, work(context));
  },
  "valid, after 100-continue": (context) => {
    const bytes = changed(context, ({ lines }) => lines.push("Expect: 100-continue"));
    const bodyAt = bytes.indexOf(`${eol}${eol}`) + 4;
    const pieces = [bytes.subarray(0, bodyAt), bytes.subarray(bodyAt)];
    return { pieces, answers: 1, after: "wait", sent: work(context) };
  },
  "valid, HTTP/1.0": (context) =>
    one(
      changed(context, (parts) => (parts.version = "HTTP/1.0")),
      work(context),
    ),
  "valid, pipelined": ({ draw, given, planned, requests }) => {
    const all = [planned];
    const more = 1 + draw.int(5);
    // The same one again, others of the same client, and repetitions of what somebody else may be doing just now.
    for (let count = 0; count < more; count += 1) {
      const again = draw.weighted({ same: 3, fresh: 3, earlier: 2 });
      const next = {
        same: () => given,
        fresh: () => requests.freshCase(),
        earlier: () => requests.earlierCase(),
      };
      all.push(requests.write(next[again]()));
    }
    const pieces = [Buffer.concat(all.map((each) => bytesOf(partsOf(each))))];
    return { pieces, answers: all.length, after: "wait", sent: all.map(({ sent }) => sent!) };
  },
  "valid, and the client leaves": (context) => {
    const bytes = bytesOf(partsOf(context.planned));
    return one(bytes, work(context), context.draw.pick(["end", "leave"]));
  },
};

const noise: Record<string, (context: Context) => Made> = {
  "no HTTP": ({ draw }) => {
    const greeting = draw.pick([
      Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
      Buffer.from("160301020001000001fc0303", "hex"),
      Buffer.from("GET /\r\n"),
      Buffer.from("\r\n\r\n\r\n"),
      Buffer.from("PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n"),
      draw.bytes(draw.int(300)),
    ]);
    return { pieces: [greeting], answers: 1, after: draw.pick(["end", "leave"]), sent: [] };
  },
  "nothing at all": ({ draw }) => ({
    pieces: [],
    answers: 1,
    after: draw.pick(["end", "leave"]),
    sent: [],
  }),
  "options of everything": ({ draw }) => {
    const origin = `Origin: ${draw.pick(["null", "http://a", "\u00ff"])}`;
    const bytes = Buffer.from(`OPTIONS * HTTP/1.1\r\nHost: a\r\n${origin}\r\n\r\n`, "latin1");
    return { pieces: [bytes], answers: 1, after: "wait", sent: [] };
  },
};

const kinds = { ...valid, ...brokenHeads, ...brokenBodies, ...noise };
const names = Object.keys(kinds);

/** One exchange of a random kind. */
export function planHostile(draw: Draw, requests: Requests): Hostile {
  const kind = draw.pick(names);
  const given = draw.chance(0.7) ? requests.freshCase() : requests.earlierCase();
  return { kind, ...kinds[kind]!({ draw, given, planned: requests.write(given), requests }) };
}
