/** Fingerprints of bodies that are not read as a value: many bytes, stated digests, and none that anybody has read. */
import crypto from "node:crypto";

import { differingFields } from "../../src/core/decide.js";
import { createFingerprinter } from "../../src/core/fingerprint.js";
import type { BodyContent, RequestContent, Secret } from "../../src/core/fingerprint.js";

const plain = createFingerprinter([]);
const january: Secret = { id: "jan", value: "a secret of 16 ch" };
const june: Secret = { id: "jun", value: "another secret, 1" };

const of = (body: BodyContent): RequestContent => ({
  method: "POST",
  url: "/uploads",
  contentType: "application/octet-stream",
  body,
});
const large = (bytes: Uint8Array | string): RequestContent => of({ kind: "bytes", bytes });

function differences(one: RequestContent, other: RequestContent): string[] {
  const stored = plain(one);
  const asked = plain(other);
  expect(asked.compare(stored.text)).toBe("other");
  return differingFields(stored.fieldHashes, asked.fieldHashesUnder(stored.text));
}

describe("a body of many bytes", () => {
  test("is hashed once for the whole, its field and every secret, and not copied", () => {
    const bytes = Buffer.alloc(50 * 1024 * 1024, "x");
    const whole = jest.spyOn(crypto, "hash");
    const parts = jest.spyOn(crypto.Hash.prototype, "update");
    try {
      const stored = createFingerprinter([january])(large(bytes));
      const asked = createFingerprinter([june, january])(large(bytes));
      expect(asked.compare(stored.text)).toBe("same");
      expect(asked.fieldHashesUnder(stored.text)).toEqual(stored.fieldHashes);
      const given = whole.mock.calls.map(([, data]): unknown => data);
      expect(given.filter((data) => data === bytes)).toHaveLength(2);
      expect(given.filter((data) => data !== bytes && String(data).length > 1_000)).toEqual([]);
      const updates = parts.mock.calls.map(([data]): unknown => data);
      expect(updates.filter((data) => String(data).length > 1_000)).toEqual([]);
    } finally {
      whole.mockRestore();
      parts.mockRestore();
    }
  });

  test("differs by its last one", () => {
    const bytes = Buffer.alloc(1024 * 1024, "x");
    const other = Buffer.concat([bytes.subarray(1), Buffer.from("y")]);
    expect(differences(large(bytes), large(other))).toEqual(["body"]);
    expect(plain(large(bytes)).text).toBe(plain(large(bytes.toString())).text);
  });
});

test("a body that nobody has read has no fingerprint", () => {
  expect(() => plain(of({ kind: "unread" }))).toThrow(
    expect.objectContaining({ code: "body_not_parsed" }),
  );
});

test("a digest that is stated is no text of the same letters", () => {
  const digest = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
  expect(differences(of({ kind: "digest", digest }), of({ kind: "bytes", bytes: digest }))).toEqual(
    [],
  );
});
