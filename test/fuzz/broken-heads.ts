/** Requests whose head no client library would send. */
import {
  type Context,
  type Made,
  eol,
  either,
  unclear,
  refused,
  partsOf,
  bytesOf,
  one,
  changed,
} from "./parts.js";

export const brokenHeads: Record<string, (context: Context) => Made> = {
  "bad bytes in a header": (context) => {
    const { draw } = context;
    const bad = draw.pick(["\0", "\u0001", "\u007f", "\n", "\r", "\u00ff", "\u000b"]);
    const name = draw.pick(["X-Odd", "Idempotency-Key", "X Odd", "X\u00e9", "", "X-Odd\t", "Host"]);
    const bytes = changed(context, ({ lines }) => lines.push(`${name}: a${bad}b`));
    return one(bytes, either(context));
  },
  "two keys": (context) => {
    const key = context.draw.pick([context.planned.sent!.key!, "another", ""]);
    const bytes = changed(context, ({ lines }) => lines.push(`idempotency-KEY: ${key}`));
    // A key of the parts' own that is quoted or holds odd characters is refused no later.
    return one(bytes, refused(context, 400));
  },
  "folded header": (context) => {
    const bytes = changed(context, ({ lines }) => lines.push(`X-Odd: a${eol}  b`));
    return one(bytes, either(context));
  },
  "huge header": (context) => {
    const name = context.draw.pick(["X-Odd", "Cookie", "Authorization", "Idempotency-Key"]);
    const text = "a".repeat(16_000 + context.draw.int(20_000));
    return one(
      changed(context, ({ lines }) => lines.push(`${name}: ${text}`)),
      either(context),
    );
  },
  "many headers": (context) => {
    const many = Array.from({ length: 3_000 }, (_, index) => `a${index}: 1`);
    return one(
      changed(context, ({ lines }) => lines.unshift("X: 1", ...many)),
      either(context),
    );
  },
  "odd host": (context) => {
    const host = context.draw.pick([[], ["Host: a", "Host: b"], ["Host:"], ["Host: \u00ff"]]);
    const bytes = changed(context, (parts) => (parts.lines = [...host, ...parts.lines.slice(1)]));
    return one(bytes, either(context));
  },
  "odd method": (context) => {
    const { draw } = context;
    const odd = [
      "BREW",
      "post",
      "CONNECT",
      "TRACE",
      "QUERY",
      "PURGE",
      "M-SEARCH",
      "PUT",
      "\u00e9",
      "",
    ];
    const bytes = changed(context, (parts) => (parts.method = draw.pick(odd)));
    return one(bytes, refused(context, 400, 404, 405));
  },
  "odd version": (context) => {
    const { draw } = context;
    const version = draw.pick(["HTTP/0.9", "HTTP/2.0", "HTTP/3.7", "http/1.1", "HTTP/1.1 x", ""]);
    return one(
      changed(context, (parts) => (parts.version = version)),
      either(context),
      "end",
    );
  },
  "odd target": (context) => {
    const { route } = context.planned.sent!;
    const target = context.draw.pick([
      `http://elsewhere.example/v1/${route}`,
      `//v1/${route}`,
      `/v1//${route}`,
      `/v1/${route}/`,
      `/V1/${route.toUpperCase()}`,
      `/v1/%${route.charCodeAt(0).toString(16)}${route.slice(1)}`,
      `/v1/x/%2e%2e/${route}`,
      `/v1/x/../${route}`,
      `/v1/${route}%00`,
      `/v1/${route}%ff`,
      `/v1/${route}%`,
      `/v1/${route}?%`,
      `/v1/${route}?a=%ff&a[]=1&__proto__[x]=1`,
      `/v1/${route}#fragment`,
      `/v1/${route};a=1`,
      `/v1/${route}?${"a".repeat(12_000)}`,
      "*",
      "",
      "/v1/\u00e9\0",
      "elsewhere.example:443",
    ]);
    const bytes = changed(context, (parts) => (parts.target = target));
    return one(bytes, unclear(context));
  },
  "lines that end oddly": (context) => {
    const bytes = bytesOf(partsOf(context.planned));
    const bodyAt = bytes.indexOf(`${eol}${eol}`) + 4;
    const lineEnd = context.draw.pick(["\n", "\r", "\r\r\n"]);
    const head = bytes.toString("latin1", 0, bodyAt).replaceAll(eol, lineEnd);
    const odd = Buffer.concat([Buffer.from(head, "latin1"), bytes.subarray(bodyAt)]);
    return one(odd, either(context), "end");
  },
  upgrade: (context) => {
    const protocol = context.draw.pick(["websocket", "h2c", "TLS/1.3"]);
    const more = [
      "Connection: Upgrade, HTTP2-Settings",
      `Upgrade: ${protocol}`,
      "HTTP2-Settings: AA",
    ];
    return one(
      changed(context, ({ lines }) => lines.push(...more)),
      either(context),
    );
  },
  "odd expectation": (context) =>
    one(
      changed(context, ({ lines }) => lines.push("Expect: 200-ok")),
      either(context),
    ),
};
