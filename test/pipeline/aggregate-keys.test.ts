/** Keys that are hard: numbers beyond 2^53, some that cannot be computed, and names that mean something else to who writes. */
import pg from "pg";

import { recomputeAggregate, type Aggregate } from "../../src/pipeline.js";
import { migrate } from "../../src/stores/postgres.js";
import { useDatabase } from "../support/databases.js";

const database = useDatabase({ prepare: (pool) => migrate({ pool }) });
let tables = 0;

type Given = { readonly key?: string; readonly at?: string; readonly batchKeys?: number };

/** A table of events and one of days, whose key is `m`. */
async function open({ key = "text", at = "timestamptz", batchKeys = 2_000 }: Given = {}) {
  const { pool } = database;
  tables += 1;
  const [source, target] = [`sales${tables}`, `days${tables}`];
  await pool.query(`CREATE TABLE ${source} (event_id text PRIMARY KEY, m ${key}, at ${at} NOT NULL);
    CREATE TABLE ${target} (m ${key}, day date, n bigint NOT NULL, PRIMARY KEY (m, day))`);
  const aggregate = recomputeAggregate({
    pool,
    source,
    target,
    key: ["m"],
    day: { column: "day", of: "at" },
    values: { n: "count(*)" },
    batchKeys,
  });
  return { aggregate, source, target };
}

const markedKeys = async (aggregate: Aggregate): Promise<unknown[]> =>
  (await aggregate.marked()).map(({ m }) => m);

test("marked keys beyond 2^53 are themselves", async () => {
  const { aggregate, source, target } = await open({ key: "bigint" });
  await aggregate.prepare();
  await database.pool.query(
    `INSERT INTO ${source} VALUES ('a', 9007199254740993, '2026-01-01T00:00:00Z'), ('b', 7, '2026-01-01T00:00:00Z')`,
  );
  const marked = await aggregate.marked();
  expect(marked.map(({ m }) => m)).toEqual(expect.arrayContaining([7, "9007199254740993"]));
  expect(await aggregate.recompute(marked)).toMatchObject({ keys: 2, written: 2 });
  expect(await aggregate.marked()).toEqual([]);
  const { rows } = await database.pool.query(`SELECT m FROM ${target} ORDER BY m`);
  expect(rows).toEqual([{ m: "7" }, { m: "9007199254740993" }]);
});

test.each(["timestamp", "date"])("an event's time must have a zone: %s", async (at) => {
  const { aggregate, source } = await open({ at });
  await expect(aggregate.prepare()).rejects.toThrow(
    `recomputeAggregate: the column at of ${source} must be of type timestamptz.`,
  );
});

test("an event's time may be of a domain", async () => {
  await database.pool.query("CREATE DOMAIN moment AS timestamptz");
  const { aggregate, source } = await open({ at: "moment" });
  await aggregate.prepare();
  await database.pool.query(`INSERT INTO ${source} VALUES ('a', 'm', '2026-01-01T00:00:00Z')`);
  expect(await aggregate.recomputeMarked()).toMatchObject({ written: 1 });
});

describe("keys that a trigger refuses", () => {
  /** Events of keys 1 to 20, of which those of `refused` cannot be stored. */
  async function openRefusing(refused: string, batchKeys: number) {
    const opened = await open({ batchKeys });
    const { aggregate, source, target } = opened;
    await database.pool.query(`
      CREATE FUNCTION ${target}_no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF new.m::int ${refused} THEN RAISE EXCEPTION 'not this one'; END IF; RETURN new; END $$;
      CREATE TRIGGER no BEFORE INSERT ON ${target} FOR EACH ROW EXECUTE FUNCTION ${target}_no()`);
    await aggregate.prepare();
    for (let m = 1; m <= 20; m += 1)
      await database.pool.query(`INSERT INTO ${source} VALUES ($1, $1, '2026-01-01T00:00:00Z')`, [
        String(m),
      ]);
    return opened;
  }

  test("one holds up no other, and is found by halves", async () => {
    const { aggregate } = await openRefusing("= 13", 2_000);
    expect(await aggregate.recomputeMarked()).toMatchObject({ written: 19, failed: 1 });
    expect(await aggregate.recomputeMarked()).toMatchObject({ keys: 0, failed: 1, hasMore: false });
    expect(await markedKeys(aggregate)).toEqual(["13"]);
  });

  test("more of them than are computed at once come behind the others", async () => {
    const { aggregate } = await openRefusing("NOT IN (12, 18)", 4);
    for (let pass = 0; pass < 6; pass += 1) await aggregate.recomputeMarked();
    const marked = await markedKeys(aggregate);
    expect(marked).toHaveLength(18);
    expect(marked).not.toContain("12");
    expect(marked).not.toContain("18");
  });
});

test("whoever writes an event, its day is marked in its merchant's zone", async () => {
  const { pool } = database;
  await pool.query(`CREATE TYPE mood AS ENUM ('x', 'y');
    CREATE TABLE zones (kind mood PRIMARY KEY, zone text NOT NULL); INSERT INTO zones VALUES ('x', 'Asia/Tokyo');
    CREATE TABLE visits (event_id text PRIMARY KEY, kind mood, at timestamptz NOT NULL);
    CREATE TABLE visit_days (kind mood, day date, n bigint NOT NULL, PRIMARY KEY (kind, day));
    CREATE SCHEMA other; CREATE TABLE other.zones (kind public.mood PRIMARY KEY, zone text NOT NULL);
    INSERT INTO other.zones VALUES ('x', 'America/Los_Angeles')`);
  const aggregate = recomputeAggregate({
    pool,
    source: "visits",
    target: "visit_days",
    key: ["kind"],
    values: { n: "count(*)" },
    day: { column: "day", of: "at", timeZone: { table: "zones", on: ["kind"], column: "zone" } },
  });
  await aggregate.prepare();
  for (const path of ["other,public", "other", "public"]) {
    const client = new pg.Client({
      connectionString: database.url,
      options: `-c search_path=${path}`,
    });
    await client.connect();
    try {
      await client.query("CREATE TEMP TABLE zones AS SELECT * FROM other.zones");
      await client.query("INSERT INTO public.visits VALUES ($1, 'x', '2026-01-01T20:00:00Z')", [
        path,
      ]);
    } finally {
      await client.end();
    }
    expect(await aggregate.marked()).toEqual([{ kind: "x", day: "2026-01-02" }]);
  }
  await aggregate.recomputeMarked();
  const { rows } = await pool.query("SELECT kind, day::text, n FROM visit_days");
  expect(rows).toEqual([{ kind: "x", day: "2026-01-02", n: "3" }]);
});
