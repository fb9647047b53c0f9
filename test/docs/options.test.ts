/** Holds docs/options.md and the tables of docs/operations.md against the sources, in both directions. */
import { readFileSync } from "node:fs";

import { resolveOptions, resolveSteps } from "../../src/core/options.js";
import { memoryStore } from "../../src/stores/memory.js";
import { rowsBelow } from "./documents.js";

const store = memoryStore();

/** Names of the members that an interface declares itself. */
function membersOf(file: string, name: string): string[] {
  const source = readFileSync(file, "utf8");
  const [, rest] = source.split(new RegExp(`export interface ${name}\\b[^{]*\\{\\n`));
  if (rest === undefined) throw new Error(`${file} has no interface ${name}`);
  const body = rest.slice(0, rest.indexOf("\n}"));
  return [...body.matchAll(/^ {2}readonly (\w+)\??:/gm)].map(([, member]) => member as string);
}

const bare = (cell: string | undefined): string => (cell ?? "").replaceAll("`", "");

/** Option and default of each row below a heading. */
function documented(heading: string): Map<string, string> {
  const rows = rowsBelow("docs/options.md", heading);
  for (const [, , meaning] of rows) expect(meaning).toMatch(/\.$/);
  return new Map(rows.map(([name, byDefault]) => [bare(name), byDefault ?? ""]));
}

describe("docs/options.md has every option and no other", () => {
  test.each([
    ["On the instance and on a route", "src/core/options.ts", "RouteOptions"],
    ["On the instance", "src/core/options.ts", "IdempotencyOptions"],
    ["Web-standard handlers", "src/fetch.ts", "FetchOptions"],
    ["On a transaction route", "src/core/options.ts", "TransactionRouteOptions"],
    ["On a steps route", "src/core/attempt.ts", "StepsOptions"],
    ["The Postgres store", "src/stores/postgres.ts", "PostgresStoreOptions"],
    ["The Redis cache", "src/stores/redis.ts", "RedisCacheOptions"],
    ["Migrations", "src/stores/migrate.ts", "MigrateOptions"],
  ])("%s", (heading, file, name) => {
    expect([...documented(heading).keys()].sort()).toEqual(membersOf(file, name).sort());
  });
});

describe("docs/options.md has the defaults of", () => {
  const { route, ...instance } = resolveOptions({ store, scope: "global" });
  const { steps } = resolveSteps(route);
  /** Defaults that a table shows as they are; the others it describes. */
  const shown = (heading: string): [string, unknown][] =>
    [...documented(heading)].flatMap(([name, text]) => {
      const [, value] = /^`(.*)`$/.exec(text) ?? [];
      return value === undefined || value.startsWith("req.") ? [] : [[name, JSON.parse(value)]];
    });

  test("routes", () => {
    const { reconcile: _hook, ...rest } = route;
    expect(Object.fromEntries(shown("On the instance and on a route"))).toEqual(rest);
  });

  test("instances", () => {
    const real = {
      ...instance,
      methods: [...instance.methods],
      dangerouslyRunWithoutStore: instance.isUnprotected(),
    };
    const defaults = Object.fromEntries(shown("On the instance"));
    expect(real).toMatchObject(defaults);
    expect(Object.keys(defaults).sort().join(" ")).toBe(
      "claimTimeoutMs completeTimeoutMs dangerouslyRunWithoutStore dialect heartbeatMs leaseMs methods nearCache workers",
    );
  });

  test("steps routes", () => {
    expect(Object.fromEntries(shown("On a steps route"))).toEqual(steps);
  });

  test.each([
    [
      "The Postgres store",
      "src/stores/postgres.ts",
      { schema: "public", timeoutMs: 5_000, prepare: true },
    ],
    ["The Redis cache", "src/stores/redis.ts", { prefix: "oncekey:", budgetMs: 50 }],
    ["Web-standard handlers", "src/fetch.ts", { maxRequestBytes: 1_048_576 }],
    ["Migrations", "src/stores/migrate.ts", { schema: "public", newEpoch: false }],
  ])("%s", (heading, file, expected) => {
    expect(Object.fromEntries(shown(heading))).toEqual(expected);
    const source = readFileSync(file, "utf8");
    const constants = new Map(
      [...source.matchAll(/^const default(\w+) = ([\d_]+);/gm)].map(([, name, value]) => [
        (name as string).toLowerCase(),
        Number((value as string).replaceAll("_", "")),
      ]),
    );
    for (const [name, value] of Object.entries(expected)) {
      const inSource = source.includes(`options.${name} ?? ${JSON.stringify(value)}`);
      const isBoolean = typeof value === "boolean";
      expect([name, inSource || isBoolean || constants.get(name.toLowerCase()) === value]).toEqual([
        name,
        true,
      ]);
    }
  });
});

describe("docs/operations.md", () => {
  test("has every event and no other", () => {
    const source = readFileSync("src/core/events.ts", "utf8");
    const events = [...source.matchAll(/readonly type: "(\w+)"/g)].map(
      ([, type]) => type as string,
    );
    const shown = rowsBelow("docs/operations.md", "Events").map(([name]) => bare(name));
    expect(shown.toSorted()).toEqual(events.toSorted());
  });

  test("has every variable of the server", () => {
    const source = readFileSync("src/server/config.ts", "utf8");
    const variables = [...source.matchAll(/^ {2}([A-Z_]+): /gm)].map(([, name]) => name as string);
    const shown = rowsBelow("docs/operations.md", "The server").map(([name]) => bare(name));
    expect(shown.toSorted()).toEqual(variables.toSorted());
  });
});
