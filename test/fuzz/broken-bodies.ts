/** Requests whose body is not what their head says, or nothing that can be read. */
import { gzipSync } from "node:zlib";

import {
  type Context,
  type Made,
  eol,
  unclear,
  refused,
  partsOf,
  bytesOf,
  chunk,
  one,
  changed,
} from "./parts.js";

export const brokenBodies: Record<string, (context: Context) => Made> = {
  "wrong length": (context) => {
    const { draw } = context;
    const bytes = changed(context, (parts) => {
      const { length } = parts.body;
      const wrong = [
        length - 1,
        length + 1,
        -1,
        "x",
        `${length}, ${length}`,
        2 ** 53,
        "+5",
        "0x5",
        "",
      ];
      parts.framing = draw.pick([
        [`Content-Length: ${draw.pick(wrong)}`],
        [`Content-Length: ${length}`, `Content-Length: ${length + 1}`],
        [`Content-Length: ${length}`, "Transfer-Encoding: chunked"],
        [],
      ]);
    });
    return one(bytes, unclear(context), "end");
  },
  "chunked with garbage": (context) => {
    const { draw } = context;
    const bytes = changed(context, (parts) => {
      const size = draw.pick(["zz", "-5", "ffffffffffffffffff", "", " 5", "5 5", "0x5", ";"]);
      const coding = draw.pick([
        "chunked",
        "Chunked",
        "chunked, chunked",
        "gzip, chunked",
        "identity",
        "x",
      ]);
      const end = draw.pick([`0${eol}${eol}`, "0", "", `0${eol}Bad trailer${eol}${eol}`]);
      parts.framing = [`Transfer-Encoding: ${coding}`];
      const good = draw.chance(0.5);
      parts.body = Buffer.concat([
        good ? chunk(parts.body) : chunk(parts.body, size),
        Buffer.from(end),
      ]);
    });
    return one(bytes, unclear(context), "end");
  },
  truncated: (context) => {
    const bytes = bytesOf(partsOf(context.planned));
    const cut = bytes.subarray(0, context.draw.int(bytes.length));
    // Less than a whole request is none.
    return one(cut, refused(context, 400, 408), context.draw.pick(["end", "leave"]));
  },
  "damaged encoding": (context) => {
    const { draw } = context;
    const bytes = changed(context, (parts) => {
      const zipped = gzipSync(parts.body);
      zipped[draw.int(zipped.length)]! ^= 1 + draw.int(255);
      parts.body = zipped.subarray(0, draw.chance(0.5) ? zipped.length : draw.int(zipped.length));
      parts.lines.push(
        `Content-Encoding: ${draw.pick(["gzip", "br", "deflate", "bogus", "gzip, gzip"])}`,
      );
    });
    return one(bytes, unclear(context));
  },
  "too large": (context) => {
    const { draw } = context;
    const isBomb = draw.chance(0.3);
    const bytes = changed(context, (parts) => {
      const large = Buffer.alloc(isBomb ? 4_000_000 : 110_000 + draw.int(900_000), 0x20);
      parts.body = Buffer.concat([parts.body, isBomb ? large : large]);
      if (!isBomb) return;
      parts.body = gzipSync(parts.body);
      parts.lines.push("Content-Encoding: gzip");
    });
    return one(bytes, refused(context, 413));
  },
  "odd charset": (context) => {
    const charset = context.draw.pick([
      "utf-16",
      "utf-16le",
      "latin1",
      "bogus",
      '"utf-8',
      "utf-7",
      "\u00ff",
    ]);
    const bytes = changed(context, (parts) => {
      parts.lines = parts.lines.map((line) =>
        line.startsWith("Content-Type:")
          ? `Content-Type: application/json; charset=${charset}`
          : line,
      );
    });
    return one(bytes, unclear(context));
  },
  "odd content type": (context) => {
    const type = context.draw.pick([
      "text/plain",
      "",
      "application/xml",
      "multipart/form-data",
      "*/*",
      ",",
      "application/json, text/plain",
    ]);
    const bytes = changed(context, (parts) => {
      parts.lines = parts.lines.map((line) =>
        line.startsWith("Content-Type:") ? `Content-Type: ${type}` : line,
      );
    });
    return one(bytes, unclear(context));
  },
  "bytes that are not UTF-8": (context) => {
    const bytes = changed(context, (parts) => {
      const odd = context.draw.pick([
        Buffer.from([0xef, 0xbb, 0xbf]),
        Buffer.from([0xff, 0xfe]),
        Buffer.from([0]),
      ]);
      const at = context.draw.int(2) * context.draw.int(parts.body.length);
      parts.body = Buffer.concat([parts.body.subarray(0, at), odd, parts.body.subarray(at)]);
    });
    return one(bytes, unclear(context));
  },
  "two requests, the second one nonsense": (context) => {
    const nonsense = context.draw.bytes(1 + context.draw.int(40));
    const bytes = Buffer.concat([bytesOf(partsOf(context.planned)), Buffer.from("\0"), nonsense]);
    return one(bytes, unclear(context));
  },
};
