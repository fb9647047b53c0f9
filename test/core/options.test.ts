import { isIdempotencyError } from "../../src/core/errors.js";
import { resolveOptions, resolveRoute } from "../../src/core/options.js";
import type { IdempotencyOptions, ResolvedOptions, RouteOptions } from "../../src/core/options.js";
import { memoryStore } from "../../src/stores/memory.js";

type Given = IdempotencyOptions<unknown>;

const store = memoryStore();
const scope = (): string => "acme";
const given: Given = { store, scope };

/** The problems that are reported, in their order. */
function problemsOf(work: () => unknown): string[] {
  try {
    work();
  } catch (error) {
    if (!isIdempotencyError(error) || error.code !== "options_invalid") throw error;
    const [, list = ""] = /^Options of [\w ]+: (.*)\.$/s.exec(error.message) ?? [];
    return list.split("; ");
  }
  return [];
}

const problems = (wrong: object): string[] =>
  problemsOf(() => resolveOptions({ ...given, ...wrong }));

describe("defaults", () => {
  test("of an instance", () => {
    const { onEvent, isUnprotected, ...rest } = resolveOptions(given);
    expect(rest).toEqual({
      store,
      cache: undefined,
      nearCache: { maxBytes: 33_554_432, maxAgeMs: 30_000 },
      scope,
      secrets: [],
      dialect: "ietf",
      methods: new Set(["POST", "PATCH"]),
      leaseMs: 30_000,
      heartbeatMs: 10_000,
      claimTimeoutMs: 5_000,
      completeTimeoutMs: 10_000,
      requestId: undefined,
      workers: true,
      route: {
        required: false,
        key: undefined,
        fingerprint: undefined,
        ignoreFields: [],
        concurrent: "reject",
        preferWaitMs: 30_000,
        serverErrors: "store",
        reconcile: expect.any(Function),
        releaseOn: [],
        afterCrash: "unknown",
        weakKeys: "warn",
        maxResponseBytes: 1_048_576,
        storeHeaders: {},
        stream: false,
        handlerTimeoutMs: 0,
        replayWindowMs: 86_400_000,
        dedupeWindowMs: 2_592_000_000,
        maxRunMs: 900_000,
        transactionTimeoutMs: 30_000,
        isolation: "read committed",
        transactionRetries: 3,
      },
    });
    expect(onEvent({ type: "replayed" })).toBeUndefined();
    expect(isUnprotected()).toBe(false);
  });

  test("stay where an option is undefined, as it is when it was read from an empty environment", () => {
    const names = [
      ...Object.keys(resolveOptions(given).route),
      "cache",
      "secret",
      "dialect",
      "methods",
    ];
    const empty = Object.fromEntries(
      [...names, "leaseMs", "heartbeatMs"].map((name) => [name, undefined]),
    );
    // Functions are made anew for each instance.
    const dataOf = (options: ResolvedOptions<unknown>): string =>
      JSON.stringify({ ...options, methods: [...options.methods] });
    expect(dataOf(resolveOptions({ ...given, ...empty }))).toBe(dataOf(resolveOptions(given)));
  });

  test("of the heartbeat are a third of the lease", () => {
    expect(resolveOptions({ ...given, leaseMs: 9_000 }).heartbeatMs).toBe(3_000);
    expect(resolveOptions({ ...given, leaseMs: 3 }).heartbeatMs).toBe(1);
  });
});

describe("what is given", () => {
  test("the kill switch is asked each time, and on is only what is true", () => {
    let isOn: unknown = false;
    const dangerouslyRunWithoutStore = (): boolean => isOn as boolean;
    const { isUnprotected } = resolveOptions({ ...given, dangerouslyRunWithoutStore });
    expect(isUnprotected()).toBe(false);
    isOn = true;
    expect(isUnprotected()).toBe(true);
    isOn = "no";
    expect(isUnprotected()).toBe(false);
    expect(resolveOptions({ ...given, dangerouslyRunWithoutStore: true }).isUnprotected()).toBe(
      true,
    );
  });

  test("a scope of one tenant is spelled out", async () => {
    expect(await resolveOptions({ ...given, scope: "global" }).scope({})).toBe("global");
  });

  test.each<[Given["secret"], unknown]>([
    ["sixteen letters!", [{ id: "1", value: "sixteen letters!" }]],
    [{ id: "a", value: "sixteen letters!" }, [{ id: "a", value: "sixteen letters!" }]],
    [
      [
        { id: "b", value: "sixteen letters?" },
        { id: "a", value: "sixteen letters!" },
      ],
      [
        { id: "b", value: "sixteen letters?" },
        { id: "a", value: "sixteen letters!" },
      ],
    ],
  ])("secret %j", (secret, secrets) => {
    expect(
      resolveOptions({ ...given, ...(secret === undefined ? {} : { secret }) }).secrets,
    ).toEqual(secrets);
  });

  test("a route's options lie over the instance's", () => {
    const base = resolveOptions({ ...given, required: true, weakKeys: "reject" }).route;
    const route = resolveRoute(base, { weakKeys: "allow", releaseOn: [429] });
    expect(route).toEqual({ ...base, weakKeys: "allow", releaseOn: [429] });
    expect(resolveRoute(base)).toEqual(base);
  });

  test("an observer that throws changes nothing", () => {
    const onEvent = (): never => {
      throw new Error("a broken log");
    };
    const options = resolveOptions({ ...given, hooks: { onEvent } });
    expect(() => options.onEvent({ type: "replayed" })).not.toThrow();
  });
});

describe("what is refused", () => {
  test.each<[object, string[]]>([
    [
      { scope: undefined },
      ['scope: is required: a function of the request that names the tenant, or "global"'],
    ],
    [
      { scope: "acme" },
      ['scope: is required: a function of the request that names the tenant, or "global"'],
    ],
    [{ store: {} }, ["store: must be a store such as postgresStore({ pool })"]],
    [{ store: undefined }, ["store: must be a store such as postgresStore({ pool })"]],
    [{ cache: {} }, ["cache: must be a cache such as redisCache({ client })"]],
    [
      { nearCache: { maxBytes: 1 } },
      ["nearCache.maxBytes: Too small: expected number to be >=65536"],
    ],
    [{ retries: 3 }, ["retries: is not an option"]],
    [{ hooks: { onError: () => undefined } }, ["onError: is not an option"]],
    [{ hooks: { onEvent: 1 } }, ["hooks.onEvent: must be a function"]],
    [{ requestId: "x" }, ["requestId: must be a function"]],
    [{ secret: "short" }, ["secret: must have at least 16 characters"]],
    [
      { secret: { id: "a b", value: "sixteen letters!" } },
      ["secret.id: must be 1 to 32 of A-Z a-z 0-9 _ -"],
    ],
    [{ methods: ["post"] }, ["methods.0: must be upper-case method names"]],
    [{ methods: [] }, [expect.stringMatching(/^methods: /)]],
    [{ dialect: "soap" }, [expect.stringMatching(/^dialect: /)]],
    [
      { leaseMs: 0.5 },
      [expect.stringMatching(/^leaseMs: /), expect.stringMatching(/^leaseMs .* must/)],
    ],
    [{ leaseMs: 2 ** 31 }, [expect.stringMatching(/^leaseMs: /)]],
    [{ maxResponseBytes: -1 }, [expect.stringMatching(/^maxResponseBytes: /)]],
    [{ maxResponseBytes: 64 * 1024 * 1024 + 1 }, [expect.stringMatching(/^maxResponseBytes: /)]],
    [{ releaseOn: [99] }, [expect.stringMatching(/^releaseOn.0: /)]],
    [{ concurrent: { waitMs: 0 } }, [expect.stringMatching(/^concurrent.waitMs: /)]],
    [{ concurrent: "wait" }, [expect.stringMatching(/^concurrent: /)]],
    [
      { replayWindowMs: 3650 * 86_400_000 + 1 },
      expect.arrayContaining([expect.stringMatching(/^replayWindowMs: /)]),
    ],
    [
      { leaseMs: 20_000, heartbeatMs: 10_000 },
      ["leaseMs (20000) must be more than twice heartbeatMs (10000)"],
    ],
    [{ leaseMs: 2 }, ["leaseMs (2) must be more than twice heartbeatMs (1)"]],
    [
      { replayWindowMs: 2_000, dedupeWindowMs: 1_000 },
      ["dedupeWindowMs (1000) must not be shorter than replayWindowMs (2000)"],
    ],
    [
      { dedupeWindowMs: 1_000 },
      ["dedupeWindowMs (1000) must not be shorter than replayWindowMs (86400000)"],
    ],
  ])("%j", (wrong, expected) => {
    expect(problems(wrong)).toEqual(expected);
  });

  test("two secrets with one id, and a short one of bytes", () => {
    const value = "sixteen letters!";
    const twice = [
      { id: "a", value },
      { id: "a", value: "sixteen letters?" },
    ];
    expect(problems({ secret: twice })).toEqual(["secret: must have different ids"]);
    expect(problems({ secret: { id: "a", value: new Uint8Array(15) } })).toHaveLength(1);
    expect(problems({ secret: { id: "a", value: new Uint8Array(16) } })).toEqual([]);
  });

  test("everything is reported at once", () => {
    const wrong = {
      scope: 1,
      weakKeys: "never",
      retries: 1,
      ttl: 2,
      leaseMs: 10,
      heartbeatMs: 9,
      dedupeWindowMs: 1,
    };
    expect(problems(wrong).sort()).toEqual([
      "dedupeWindowMs (1) must not be shorter than replayWindowMs (86400000)",
      "leaseMs (10) must be more than twice heartbeatMs (9)",
      "retries: is not an option",
      expect.stringMatching(/^scope: is required/),
      "ttl: is not an option",
      expect.stringMatching(/^weakKeys: /),
    ]);
  });

  test.each([undefined, null, 5, "options"])("options that are %p", (nothing) => {
    expect(problemsOf(() => resolveOptions(nothing as unknown as Given))[0]).toMatch(/^options: /);
  });

  test("a value of a secret is never repeated", () => {
    const secret = "short-and-secret";
    expect(() => resolveOptions({ ...given, secret: [{ id: "?", value: secret }] })).toThrow(
      expect.objectContaining({ message: expect.not.stringContaining(secret) as string }),
    );
  });
});

describe("on a route", () => {
  const base = resolveOptions(given).route;

  test("an instance's option is no option", () => {
    const wrong = { scope, store, leaseMs: 10 } as RouteOptions;
    expect(problemsOf(() => resolveRoute(base, wrong))).toEqual([
      "scope: is not an option",
      "store: is not an option",
      "leaseMs: is not an option",
    ]);
  });

  test("the relation holds between its own and the instance's windows", () => {
    expect(problemsOf(() => resolveRoute(base, { dedupeWindowMs: 1_000 }))).toEqual([
      "dedupeWindowMs (1000) must not be shorter than replayWindowMs (86400000)",
    ]);
    expect(resolveRoute(base, { replayWindowMs: 1_000, dedupeWindowMs: 1_000 })).toMatchObject({
      replayWindowMs: 1_000,
      dedupeWindowMs: 1_000,
    });
  });
});
