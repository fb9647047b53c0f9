import fc from "fast-check";

import { downstreamKey } from "../../src/core/downstream-key.js";

/** Never to be changed: a retry after an upgrade must reach the other service under the key of the first attempt. */
test.each([
  ["acme", "order-1", "charge", "ok_3liSh1H9rnBdeAW46Y0M1As7XYxu_4u42ltF8eocrpY"],
  ["acme", "order-1", "mail", "ok_ppSWbsAeULv0W9Ik_Wnj_RVWaSmUyfu4LY9hM-sIRuY"],
  ["acm", "eorder-1", "charge", "ok_AEpL6S-C4p6vrHlt6T3tYxjJFDoN5jAMpmvmYE6-SMY"],
  ["zürich", "order-1", "charge", "ok_UaV9EIj28CKcKxKx-qa8KMa4VjAY0U3dm1V1PBuwzUw"],
])("the key of %s, %s, %s stays what it was in version 1", (scope, key, name, expected) => {
  expect(downstreamKey({ scope, key }, name)).toBe(expected);
});

test("it fits every service that takes 46 characters of letters, digits, _ and -", () => {
  fc.assert(
    fc.property(
      fc.string({ minLength: 1 }),
      fc.string(),
      fc.string({ minLength: 1 }),
      (scope, key, name) => {
        expect(downstreamKey({ scope, key }, name)).toMatch(/^ok_[\w-]{43}$/);
      },
    ),
  );
});

test("no two triples share one, wherever their texts are cut", () => {
  const part = fc.string({ unit: fc.constantFrom("1", ":", ";", "a"), minLength: 1, maxLength: 4 });
  fc.assert(
    fc.property(fc.tuple(part, part, part), fc.tuple(part, part, part), (one, other) => {
      const isSame = one.every((text, index) => text === other[index]);
      const keys = [one, other].map(([scope, key, name]) => downstreamKey({ scope, key }, name));
      expect(keys[0] === keys[1]).toBe(isSame);
    }),
  );
});

test("a call without a name is refused: two of them would share a key", () => {
  expect(() => downstreamKey({ scope: "acme", key: "k" }, "")).toThrow(
    new TypeError('downstreamKey needs the name of the call, such as "charge"'),
  );
});
