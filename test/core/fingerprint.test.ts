import fc from "fast-check";

import { differingFields } from "../../src/core/decide.js";
import { createFingerprinter } from "../../src/core/fingerprint.js";
import type {
  BodyContent,
  Fingerprint,
  RequestContent,
  Secret,
} from "../../src/core/fingerprint.js";

const plain = createFingerprinter([]);
const base: RequestContent = {
  method: "POST",
  url: "/v1/orders",
  contentType: "application/json",
  body: { kind: "value", value: { amount: 2000, currency: "eur" } },
};
const january: Secret = { id: "jan", value: "a secret of 16 ch" };
const june: Secret = { id: "jun", value: "another secret, 1" };

function withBody(value: unknown, raw?: string): RequestContent {
  const bytes = raw === undefined ? undefined : Buffer.from(raw);
  return { ...base, body: { kind: "value", value, raw: bytes } };
}

/** As a parser that keeps the bytes hands it over. */
function parsed(raw: string): RequestContent {
  return withBody(JSON.parse(raw), raw);
}

function textOf(content: Partial<RequestContent>): string {
  return plain({ ...base, ...content }).text;
}

/** Field hashes by the names of their fields. */
function hashesOf(of: Fingerprint): Record<string, string> {
  return JSON.parse(of.fieldHashes) as Record<string, string>;
}

/** Names of the fields that a reader is told when these two requests meet under one key. */
function differences(one: Partial<RequestContent>, other: Partial<RequestContent>): string[] {
  const stored = plain({ ...base, ...one });
  const asked = plain({ ...base, ...other });
  expect(asked.compare(stored.text)).toBe("other");
  return differingFields(stored.fieldHashes, asked.fieldHashesUnder(stored.text));
}

/** Computed with openssl. A stored key must still compare after an upgrade: a change here needs a v2 beside it. */
describe("version 1 is", () => {
  test.each<[string, readonly Secret[], RequestContent, string]>([
    ["of JSON", [], base, "v1::RDfE-bcNOjyDCuRi8AkljnXYtrT2bnA0nvVEE_TVjjg"],
    [
      "of JSON under a secret",
      [january],
      base,
      "v1:jan:8XwVafFTIHzj_K9A2gjtADq6oBGNcwHza7LK6Sk38II",
    ],
    [
      "of a request without a body",
      [],
      {
        method: "post",
        url: "/v1/orders?b=x+&a=1",
        contentType: "text/plain",
        body: { kind: "none" },
      },
      "v1::C3kWt6LW5kF_BhXZlNriLB6F7C2SdfznOq0zPp3K2Z8",
    ],
    [
      "of bytes",
      [],
      {
        method: "POST",
        url: "/upload",
        contentType: "application/octet-stream",
        body: { kind: "bytes", bytes: Uint8Array.from([0, 255, 1]) },
      },
      "v1::Gvh83MXYx6iPGy9YkEpvaORo0yjSyJRvutEubQxXuVI",
    ],
    [
      "of a number beyond 2^53",
      [],
      { ...parsed('{"n":9007199254740993}'), url: "/n" },
      "v1::QPGw0evqhQoRHwOF-wxSvAkPRAuerZ3bHRRdHCyiiP4",
    ],
  ])("what it was: %s", (_name, secrets, content, expected) => {
    expect(createFingerprinter(secrets)(content).text).toBe(expected);
  });

  test("what it was: the hashes of fields", () => {
    expect(hashesOf(plain({ ...base, url: "/v1/orders?dry=1" }))).toEqual({
      method: "0ZK7HPwm",
      path: "EbLjr7La",
      "query.dry": "lMOxM_OX",
      content_type: "wVSOm_St",
      "body.amount": "nX_slnJQ",
      "body.currency": "wYBG7okr",
    });
  });
});

describe("what does not count", () => {
  test("the order of names and the white space of JSON", () => {
    const one = parsed('{"a":1,"b":{"c":[1,2],"d":"x"}}');
    const other = parsed(' { "b" : { "d":"\\u0078", "c":[1, 2.0] },\n "a":1e0 } ');
    expect(plain(one).text).toBe(plain(other).text);
  });

  test("the order of any object's names, at any depth", () => {
    fc.assert(
      fc.property(fc.jsonValue({ noUnicodeString: false }), (value) => {
        const exact = JSON.parse(JSON.stringify(value)) as unknown;
        fc.pre(hasExactNumbers(exact));
        expect(plain(withBody(reversed(exact))).text).toBe(plain(withBody(exact)).text);
      }),
    );
  });

  test("the order of query parameters and how they are escaped", () => {
    expect(textOf({ url: "/a?x=1&y=2&x=0" })).toBe(textOf({ url: "/a?y=2&x=0&x=1" }));
    expect(textOf({ url: "/a?q=a%20b" })).toBe(textOf({ url: "/a?q=a+b" }));
    expect(textOf({ url: "/a?q=%7e%c3%bc" })).toBe(textOf({ url: "/a?q=~%C3%BC" }));
    expect(textOf({ url: "/a?" })).toBe(textOf({ url: "/a" }));
    expect(textOf({ url: "/a?&x=1&&" })).toBe(textOf({ url: "/a?x=1" }));
    expect(textOf({ url: "/a?x" })).toBe(textOf({ url: "/a?x=" }));
  });

  test("parameters and case of the media type, and the case of the method", () => {
    const contentType = "Application/JSON; charset=utf-8; boundary=x";
    expect(textOf({ contentType, method: "post" })).toBe(plain(base).text);
  });

  test("the media type of a body that is not there", () => {
    expect(textOf({ body: { kind: "none" } })).toBe(
      textOf({ body: { kind: "none" }, contentType: undefined }),
    );
  });
});

describe("what counts", () => {
  const none: BodyContent = { kind: "none" };
  const bytes = (...list: number[]): BodyContent => ({
    kind: "bytes",
    bytes: Uint8Array.from(list),
  });

  test.each<[string, Partial<RequestContent>, Partial<RequestContent>, string[]]>([
    ["the method", {}, { method: "PATCH" }, ["method"]],
    ["the path", {}, { url: "/v1/orders/1" }, ["path"]],
    ["a trailing slash", {}, { url: "/v1/orders/" }, ["path"]],
    ["a parameter", { url: "/a?x=1&z=3" }, { url: "/a?x=2&z=3" }, ["query.x"]],
    ["one parameter more", { url: "/a" }, { url: "/a?x=2" }, ["query.x"]],
    ["a repeated parameter", { url: "/a?x=1" }, { url: "/a?x=1&x=1" }, ["query.x"]],
    ["an escaped name", { url: "/a?f%5Bn%5D=1" }, { url: "/a?f[n]=2" }, ["query.f[n]"]],
    ["bytes that are no UTF-8", { url: "/a?x=%FF" }, { url: "/a?x=%FE" }, ["query.x"]],
    ["what they look like escaped", { url: "/a?x=%FF" }, { url: "/a?x=%25FF" }, ["query.x"]],
    ["the media type", {}, { contentType: "application/x-www-form-urlencoded" }, ["content_type"]],
    ["a value", withBody({ a: 1, b: 2 }), withBody({ a: 1, b: 3 }), ["body.b"]],
    ["a type", withBody({ a: 1 }), withBody({ a: "1" }), ["body.a"]],
    ["null and absent", withBody({ a: null }), withBody({}), ["body", "body.a"]],
    [
      "an item",
      withBody({ i: [{ q: 1 }, { q: 2 }] }),
      withBody({ i: [{ q: 1 }, { q: 9 }] }),
      ["body.i[1].q"],
    ],
    ["the order of items", withBody([1, 2]), withBody([2, 1]), ["body[0]", "body[1]"]],
    [
      "the name __proto__",
      parsed('{"__proto__":1}'),
      parsed('{"__proto__":2}'),
      ["body.__proto__"],
    ],
    ["half a surrogate pair", withBody({ a: "\ud800" }), withBody({ a: "\ud801" }), ["body.a"]],
    ["a byte", { body: bytes(1, 2) }, { body: bytes(1, 3) }, ["body"]],
    ["bytes and their JSON", { body: { kind: "bytes", bytes: "{}" } }, withBody({}), []],
    ["an empty body and none", { body: bytes() }, { body: none }, ["body", "content_type"]],
  ])("%s", (_name, one, other, expected) => {
    expect(differences(one, other)).toEqual(expected);
  });
});

describe("numbers that a double cannot hold", () => {
  test("are told apart where the bytes were kept", () => {
    expect(differences(parsed('{"n":9007199254740993}'), parsed('{"n":9007199254740992}'))).toEqual(
      ["body.n"],
    );
    expect(differences(parsed('{"n":1e400}'), parsed('{"n":2e400}'))).toEqual(["body.n"]);
    expect(plain(parsed('{"n":1E+400}')).text).toBe(plain(parsed('{"n":1e400}')).text);
  });

  test("do not look like a body that names them so", () => {
    const forged = parsed('{"n":{"\\u0000number":"1e400"}}');
    expect(plain(parsed('{"n":1e400}')).compare(plain(forged).text)).toBe("other");
    const both = '{"m":1e400,"n":{"\\u0000number":"1e400"}}';
    expect(() => plain(withBody({ m: Infinity }, both))).toThrow(
      expect.objectContaining({ code: "body_not_exact", status: 400 }),
    );
  });

  test.each([Number("9007199254740993"), 2 ** 53, -(2 ** 53), Infinity, NaN, 1e21, 5n])(
    "%p is refused without the bytes",
    (n) => {
      expect(() => plain(withBody({ a: [{ n }] }))).toThrow(
        expect.objectContaining({ code: "body_not_exact", status: 400 }),
      );
    },
  );

  test.each([Number.MAX_SAFE_INTEGER, -Number.MAX_SAFE_INTEGER, 0.1, 5e-324])(
    "%p is not refused",
    (n) => {
      expect(plain(withBody({ n })).text).toMatch(/^v1::[\w-]{43}$/);
    },
  );

  test("bytes that are not the body's JSON are refused", () => {
    expect(() => plain(withBody({ n: Infinity }, "n=1"))).toThrow(
      expect.objectContaining({ code: "body_not_exact" }),
    );
  });
});

describe("depth", () => {
  const nested = (levels: number, leaf: unknown): unknown =>
    Array.from({ length: levels }).reduce<unknown>((inner) => ({ a: inner }), leaf);

  test("200 levels are read, and 201 are refused", () => {
    expect(plain(withBody(nested(200, 1))).text).toMatch(/^v1::/);
    expect(() => plain(withBody(nested(201, 1)))).toThrow(
      expect.objectContaining({
        code: "body_not_exact",
        message: "The body is nested more than 200 levels deep.",
      }),
    );
  });

  test("a difference below four levels is told of the fourth", () => {
    expect(differences(withBody(nested(6, 1)), withBody(nested(6, 2)))).toEqual(["body.a.a.a.a"]);
  });

  test("a wide object is one field, and a large body has at most some 64 of them", () => {
    const wide = (value: number): unknown =>
      Object.fromEntries(Array.from({ length: 65 }, (_, index) => [`f${index}`, value]));
    expect(differences(withBody({ w: wide(1) }), withBody({ w: wide(2) }))).toEqual(["body.w"]);
    const rows = Array.from({ length: 64 }, () => ({ a: 1, b: 2, c: 3 }));
    expect(Object.keys(hashesOf(plain(withBody(rows)))).length).toBeLessThanOrEqual(3 + 128);
  });
});

describe("secrets", () => {
  const before = createFingerprinter([january])(base);
  const rotated = createFingerprinter([june, january]);
  const without = createFingerprinter([june]);

  test("a fingerprint made with an old secret compares as long as the secret is kept", () => {
    expect(rotated(base).text).toMatch(/^v1:jun:/);
    expect(rotated(base).compare(before.text)).toBe("same");
    expect(rotated({ ...base, method: "PATCH" }).compare(before.text)).toBe("other");
  });

  test("and is neither the same nor another once it is gone", () => {
    expect(without(base).compare(before.text)).toBe("unknown_secret");
  });

  test("one made without a secret compares after one was introduced", () => {
    expect(rotated(base).compare(plain(base).text)).toBe("same");
    expect(rotated({ ...base, url: "/" }).compare(plain(base).text)).toBe("other");
  });

  test("one made with a secret does not compare where there is none", () => {
    expect(plain(base).compare(before.text)).toBe("unknown_secret");
  });

  test.each(["v2::abc", "v1", "", "v1:nobody:abc", "v0:jan:abc"])(
    "%j is of no known making",
    (stored) => {
      expect(rotated(base).compare(stored)).toBe("unknown_secret");
    },
  );

  test("differing fields are told across a rotation", () => {
    const asked = rotated(withBody({ amount: 1, currency: "eur" }));
    expect(differingFields(before.fieldHashes, asked.fieldHashesUnder(before.text))).toEqual([
      "body.amount",
    ]);
  });

  test("field hashes cannot be compared between secrets, nor between fields", () => {
    const [one, other] = [hashesOf(before), hashesOf(without(base))];
    expect(Object.keys(one)).toEqual(Object.keys(other));
    for (const name of Object.keys(one)) expect(one[name]).not.toBe(other[name]);
    const twins = hashesOf(plain(withBody({ a: "same", b: "same" })));
    expect(twins["body.a"]).not.toBe(twins["body.b"]);
  });

  test("field hashes are those of their request, however many others came before", () => {
    const fingerprinters = [plain, createFingerprinter([january]), createFingerprinter([june])];
    const paths = Array.from({ length: 600 }, (_, index) => `/v1/orders/${index}`);
    const hashesUnderAll = (url: string, method: string) =>
      fingerprinters.map((of) => hashesOf(of({ ...base, url, method })));
    const first = paths.map((path) => hashesUnderAll(path, "POST"));
    expect(new Set(first.flat().map((hashes) => hashes["path"])).size).toBe(paths.length * 3);
    expect(paths.map((path) => hashesUnderAll(path, "POST"))).toEqual(first);
    // A path that is spelled as a method is hashed as a path.
    const [asMethod] = hashesUnderAll("POST", "POST");
    expect(asMethod?.["path"]).not.toBe(asMethod?.["method"]);
  });

  test("a secret of bytes is the same as its text", () => {
    const asBytes = createFingerprinter([{ id: "jan", value: Buffer.from("a secret of 16 ch") }]);
    expect(asBytes(base).text).toBe(before.text);
  });
});

describe("values", () => {
  test("never stand in what is kept", () => {
    const secret = "4242424242424242";
    const content = { ...withBody({ card: secret }), url: `/v1/orders?token=${secret}` };
    const made = plain(content);
    expect(made.text + made.fieldHashes).not.toContain(secret);
    expect(hashesOf(made)["body.card"]).toMatch(/^[\w-]{8}$/);
  });
});

/** Every part has its length before it: moving text from one part to the next makes another request. */
describe("no two requests run together", () => {
  test.each<[Partial<RequestContent>, Partial<RequestContent>]>([
    [{ url: "/a?b=c" }, { url: "/a?bc=" }],
    [{ url: "/a?b=c&d=e" }, { url: "/a?b=c%26d%3De" }],
    [{ url: "/a?b=c" }, { url: "/a%3Fb=c" }],
    [
      { method: "POST", url: "T/a" },
      { method: "POSTT", url: "/a" },
    ],
    [
      { url: "/a", body: { kind: "bytes", bytes: "4:none" } },
      { url: "/a?4=none", body: { kind: "bytes", bytes: "" } },
    ],
  ])("%j and %j", (one, other) => {
    expect(textOf(one)).not.toBe(textOf(other));
  });

  test("however their texts are cut", () => {
    const part = fc.string({ unit: fc.constantFrom("1", ":", ";", "a", "=", "&"), maxLength: 5 });
    const content = fc.record({ path: part, search: part, type: part, body: part });
    fc.assert(
      fc.property(content, content, (one, other) => {
        const [a, b] = [one, other].map(({ path, search, type, body }) => ({
          parts: JSON.stringify([path, sortedPairs(search), type.split(";")[0], body]),
          text: textOf({
            url: `/${path}?${search}`,
            contentType: type,
            body: { kind: "bytes", bytes: body },
          }),
        }));
        expect(a?.text === b?.text).toBe(a?.parts === b?.parts);
      }),
      { numRuns: 500 },
    );
  });
});

function sortedPairs(search: string): string[] {
  return [...new URLSearchParams(search)].map((pair) => JSON.stringify(pair)).sort();
}

function reversed(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(reversed);
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value).toReversed();
  return Object.fromEntries(entries.map(([name, child]) => [name, reversed(child)]));
}

function hasExactNumbers(value: unknown): boolean {
  if (typeof value === "number") return Math.abs(value) <= Number.MAX_SAFE_INTEGER;
  if (typeof value !== "object" || value === null) return true;
  return Object.values(value).every(hasExactNumbers);
}
