import { IncomingMessage, ServerResponse } from "node:http";
import { Socket } from "node:net";

import {
  headersOfHandler,
  resetHeaders,
  takeHeaders,
  takeHeadersBefore,
} from "../../src/http/headers.js";

type Values = Readonly<Record<string, string | readonly string[]>>;

function response(headers: Values): ServerResponse {
  const res = new ServerResponse(new IncomingMessage(new Socket()));
  for (const [name, value] of Object.entries(headers)) res.setHeader(name, value);
  return res;
}

/** What is kept of a response that begins with the one and ends with the other. */
function kept(begins: Values, sets: Values): unknown {
  const res = response(begins);
  const before = takeHeadersBefore(res);
  for (const [name, value] of Object.entries(sets)) res.setHeader(name, value);
  return headersOfHandler(before, takeHeaders(res), 0).headers;
}

test("responses that begin alike share what they began with, and nothing that comes later", () => {
  const first = response({ "X-Powered-By": "Express" });
  const before = takeHeadersBefore(first);
  first.setHeader("X-Powered-By", "me");
  first.removeHeader("Date");
  const second = response({ "X-Powered-By": "Express" });
  expect(takeHeadersBefore(second)).toBe(before);
  resetHeaders(first, before);
  expect(first.getHeader("X-Powered-By")).toBe("Express");
});

test.each<[string, Values]>([
  ["another value", { "X-App": "two" }],
  ["another name", { "X-Other": "one" }],
  ["another spelling", { "x-app": "one" }],
  ["one more", { "X-App": "one", "X-More": "1" }],
  ["none", {}],
  ["another order", { "X-Z": "1", "X-App": "one" }],
])("one that begins with %s begins anew", (_what, begins) => {
  takeHeadersBefore(response({ "X-App": "one" }));
  takeHeadersBefore(response({ "X-App": "one", "X-Z": "1" }));
  for (const other of [{ "X-App": "one" }, { "X-App": "one", "X-Z": "1" }]) {
    const before = takeHeadersBefore(response(other));
    const res = response(begins);
    const own = takeHeadersBefore(res);
    expect(own).not.toBe(before);
    expect([...own.values()].map(({ name, value }) => [name, value])).toEqual(
      Object.entries(begins),
    );
  }
});

test("lists are never shared, since appendHeader adds to them in place", () => {
  const first = response({ Vary: ["a"] });
  const before = takeHeadersBefore(first);
  const second = response({ Vary: ["a"] });
  expect(takeHeadersBefore(second)).not.toBe(before);
  second.appendHeader("Vary", "b");
  expect(before.get("vary")?.value).toEqual(["a"]);
});

test("what differs from the own beginning is kept, whatever began in between", () => {
  const slow = response({ "X-Request": "1" });
  const before = takeHeadersBefore(slow);
  expect(kept({ "X-Request": "2" }, { "X-Mine": "2" })).toEqual([["X-Mine", "2"]]);
  slow.setHeader("X-Mine", "1");
  expect(headersOfHandler(before, takeHeaders(slow), 0).headers).toEqual([["X-Mine", "1"]]);
});
