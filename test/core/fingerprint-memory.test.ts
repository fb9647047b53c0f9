import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

import { createFingerprinter } from "../../src/core/fingerprint.js";
import type { Fingerprint, RequestContent, Secret } from "../../src/core/fingerprint.js";

const january: Secret = { id: "jan", value: "a secret of 16 ch" };
const june: Secret = { id: "jun", value: "another secret, 1" };

function request(given: Partial<RequestContent> = {}): RequestContent {
  const value = { amount: 2000, currency: "eur" };
  const body = { kind: "value", value } as const;
  return { method: "POST", url: "/v1/orders", contentType: "application/json", body, ...given };
}

function textOf(secrets: readonly Secret[], given?: Partial<RequestContent>): string {
  return createFingerprinter(secrets)(request(given)).text;
}

function fieldsOf(json: string): string[] {
  return Object.keys(JSON.parse(json) as object);
}

describe("when its text and the hashes of its fields are made, a fingerprint", () => {
  const collect = (): void => {
    setFlagsFromString("--expose-gc");
    (runInNewContext("gc") as () => void)();
  };
  /** The body is known to the fingerprint alone. */
  const made = (
    secrets: readonly Secret[],
  ): { fingerprint: Fingerprint; body: WeakRef<object> } => {
    const body = { amount: 2000, currency: "eur" };
    const fingerprint = createFingerprinter(secrets)(
      request({ body: { kind: "value", value: body } }),
    );
    expect([fingerprint.text, fieldsOf(fingerprint.fieldHashes)]).toEqual([
      expect.stringMatching(/^v1:/),
      expect.arrayContaining(["body.amount", "body.currency"]),
    ]);
    return { fingerprint, body: new WeakRef(body) };
  };

  test("holds its body no longer than another secret may ask for it", async () => {
    const without = made([]);
    const with_ = made([june]);
    // What a WeakRef was made of stays until the turn is over.
    await new Promise(setImmediate);
    collect();
    expect(without.body.deref()).toBeUndefined();
    expect(with_.body.deref()).toBeDefined();
    expect(with_.fingerprint.compare(textOf([]))).toBe("same");
  });

  test.each<[string, readonly Secret[], string, string]>([
    ["its own", [], textOf([]), "same"],
    ["another of no secret", [], textOf([], { method: "PATCH" }), "other"],
    ["one under a secret it does not know", [], textOf([june]), "unknown_secret"],
    ["its own of before a secret", [june], textOf([]), "same"],
    ["its own of before a rotation", [june, january], textOf([january]), "same"],
    ["another of before a secret", [june], textOf([], { method: "PATCH" }), "other"],
  ])("compares with %s", (_what, secrets, stored, expected) => {
    const { fingerprint } = made(secrets);
    expect(fingerprint.compare(stored)).toBe(expected);
    expect(fieldsOf(fingerprint.fieldHashesUnder(stored))).toEqual(
      fieldsOf(fingerprint.fieldHashes),
    );
  });
});
