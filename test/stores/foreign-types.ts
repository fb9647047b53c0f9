/** Applications that have their own ideas of values: of how pg reads them, and of how the server writes them. */
import pg from "pg";

import { migrate } from "../../src/stores/postgres.js";
import { useDatabase } from "../support/databases.js";

/** What the replaced parsers make of every value. */
export const useless = "useless";

/** Those of pg's `builtins`, and the arrays that it reads by itself. */
const arrays = [
  199, 1000, 1001, 1005, 1007, 1009, 1015, 1016, 1021, 1022, 1028, 1041, 1115, 1182, 1185, 1187,
  1231, 2951, 3807,
];
const replaced: readonly number[] = [...Object.values(pg.types.builtins).map(Number), ...arrays];

/** Takes the place of every parser of the process, and answers how to put them back. */
function replaceParsers(): () => void {
  const before = replaced.map(
    (oid) => [oid, pg.types.getTypeParser(oid, "text") as (text: string) => unknown] as const,
  );
  for (const [oid] of before) pg.types.setTypeParser(oid, () => useless);
  return () => {
    for (const [oid, parser] of before) pg.types.setTypeParser(oid, parser);
  };
}

const settings = {
  DateStyle: "'SQL, DMY'",
  TimeZone: "'Asia/Kolkata'",
  IntervalStyle: "'sql_standard'",
  bytea_output: "'escape'",
  extra_float_digits: "0",
};

export const foreignWays = ["own parsers in pg", "other settings of the database"] as const;

export interface Foreign {
  /** A migrated database where the way is in force while a test runs. */
  readonly pool: pg.Pool;
  /** The same as anybody else sees it. */
  readonly plain: pg.Pool;
  readonly name: string;
  readonly url: string;
  /** Runs a statement of the test itself. */
  rowsOf(text: string): Promise<unknown[]>;
}

/** For the `describe` block that calls it. `closeFirst` is called before the pools are closed. */
export function useForeignTypes(
  way: (typeof foreignWays)[number],
  closeFirst: () => unknown = () => undefined,
): Foreign {
  let pool: pg.Pool | undefined;
  let restore: (() => void) | undefined;
  const replace = (): void => {
    restore = way === "own parsers in pg" ? replaceParsers() : undefined;
  };
  afterAll(async () => {
    await closeFirst();
    await pool?.end();
  });
  const database = useDatabase();
  beforeAll(async () => {
    if (way === "other settings of the database")
      for (const [name, value] of Object.entries(settings))
        await database.pool.query(`ALTER DATABASE ${database.name} SET ${name} = ${value}`);
    pool = new pg.Pool({ connectionString: database.url });
    replace();
    try {
      await migrate({ pool });
    } finally {
      restore?.();
    }
  });
  beforeEach(replace);
  afterEach(() => restore?.());
  return {
    get pool() {
      return pool as pg.Pool;
    },
    get plain() {
      return database.pool;
    },
    get name() {
      return database.name;
    },
    get url() {
      return database.url;
    },
    rowsOf: async (text) => {
      const types: pg.CustomTypesConfig = { getTypeParser: () => (value: string) => value };
      return (await database.pool.query({ text, types })).rows as unknown[];
    },
  };
}
