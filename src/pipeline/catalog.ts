/**
 * What the catalog says of a sink's table, held against the description. Owns: every reason why a table will not do, told at once
 * and before a row is taken; and whether rows may be copied straight into it.
 */
import type { Pool } from "pg";
import { IdempotencyError } from "../core/errors.js";
import { ownRows } from "../stores/own-types.js";
import { quoteIdentifier, quoteTable, statementsFor } from "../stores/sql-text.js";
import { encodeCast, encoderFor } from "./encoders.js";
import type { ColumnType } from "./encoders.js";
import type { SinkDescription } from "./description.js";
import type { Encoder } from "./row-buffer.js";
import { shapeSql } from "./table-shape.js";

/** A column as a sink writes it. */
export interface SinkColumn {
  readonly name: string;
  readonly type: ColumnType;
  /** As SQL writes it. */
  readonly shown: string;
  /** The same without a length or a precision. */
  readonly bare: string;
  readonly isNotNull: boolean;
  readonly encode: Encoder;
  /** Its values travel as text, and the server casts them. */
  readonly isCast: boolean;
}

/** A table that is fit for its description. */
export interface SinkTable {
  /** `schema.table`, for the ledger. */
  readonly target: string;
  readonly quoted: string;
  /** Those of the key first, then the version, then the others: the order in which rows are encoded. */
  readonly columns: readonly SinkColumn[];
  readonly keyColumns: readonly SinkColumn[];
  /** Names of the unique indexes on exactly the key. */
  readonly keyIndexes: readonly string[];
  readonly versionColumn: SinkColumn | undefined;
  /** The key's first column leads the primary key, whose index has the plain order: its largest value is one look away. */
  readonly hasLargestKey: boolean;
  /** COPY into the table itself would do the same as INSERT. */
  readonly takesCopy: boolean;
  /** What {@link shapeSql} answered when the catalog was read. */
  readonly shape: string;
}

/** Types whose equal values have equal bytes as they are encoded here, so that a key's bytes are the key. */
const keyTypes = new Set(
  "int2 int4 int8 float4 float8 numeric text varchar bool uuid timestamptz date bytea".split(" "),
);
const kinds: Readonly<Record<string, string>> = {
  v: "a view",
  m: "a materialised view",
  f: "a foreign table",
  S: "a sequence",
  i: "an index",
};

interface TableRow {
  readonly oid: string;
  readonly kind: string;
  readonly schema: string;
  readonly name: string;
  readonly row_security: boolean;
  readonly triggers: boolean;
  readonly rules: boolean;
  readonly indexes: readonly {
    readonly name: string;
    readonly primary: boolean;
    readonly deterministic: boolean;
    readonly columns: readonly string[];
  }[];
}

interface ColumnRow {
  readonly name: string;
  readonly type: string;
  readonly type_oid: string;
  readonly shown: string;
  readonly bare: string;
  readonly modifier: number;
  readonly built_in: boolean;
  readonly element: string | null;
  readonly element_oid: string | null;
  readonly not_null: boolean;
  readonly generated: boolean;
  readonly always_identity: boolean;
  readonly deterministic: boolean;
}

/** @throws `table_unsuitable` that lists every problem. */
export async function readTable(pool: Pool, description: SinkDescription): Promise<SinkTable> {
  const statements = statementsFor("public");
  const given = quoteTable(description.table);
  const [row] = await ownRows<TableRow>(pool, statements["sink-table"].text, [given]);
  if (row === undefined) throw unsuitable(description, ["there is no such table"]);
  if (row.kind !== "r" && row.kind !== "p")
    throw unsuitable(description, [`it is ${kinds[row.kind] ?? "no table"}`]);
  // Read first: what is changed behind it, every batch finds out.
  const [shape] = await ownRows<{ shape: string }>(
    pool,
    shapeSql(given, description.columns, keyOf(description)),
  );
  const columns = await ownRows<ColumnRow>(pool, statements["sink-columns"].text, [row.oid]);
  const catalog = new Map(columns.map((column) => [column.name, column]));
  return describe(description, row, catalog, shape?.shape ?? "");
}

/** The key's columns in the description's order. */
export function keyOf({ key }: Pick<SinkDescription, "key">): readonly string[] {
  return typeof key === "string" ? [key] : key;
}

function describe(
  description: SinkDescription,
  table: TableRow,
  catalog: ReadonlyMap<string, ColumnRow>,
  shape: string,
): SinkTable {
  const key = keyOf(description);
  const { version } = description;
  const first = version === undefined ? key : [...key, version];
  const names = [...first, ...description.columns.filter((name) => !first.includes(name))];
  const problems = names.flatMap((name) => problemsOf(name, catalog.get(name), key.includes(name)));
  const sorted = JSON.stringify([...key].sort());
  const keyIndexes = table.indexes.filter(
    ({ columns }) => JSON.stringify([...columns].sort()) === sorted,
  );
  if (keyIndexes.length === 0)
    problems.push(
      `no unique index is on exactly (${key.join(", ")}); a partial or deferrable one does not count`,
    );
  // ON CONFLICT takes each of them for the key's.
  const odd = keyIndexes.find(({ deterministic }) => !deterministic);
  if (odd !== undefined)
    problems.push(`the index ${odd.name} has a collation that takes different texts for equal`);
  if (problems.length > 0) throw unsuitable(description, problems);
  const columns = names.map((name) => toColumn(catalog.get(name) as ColumnRow, key.includes(name)));
  return {
    target: `${table.schema}.${table.name}`,
    quoted: `${quoteIdentifier(table.schema)}.${quoteIdentifier(table.name)}`,
    columns,
    keyColumns: columns.slice(0, key.length),
    keyIndexes: keyIndexes.map(({ name }) => name),
    versionColumn: version === undefined ? undefined : columns[key.length],
    hasLargestKey: keyIndexes.some(({ primary, columns: [lead] }) => primary && lead === key[0]),
    // Triggers of rows can drop or change them, rules are passed over by COPY, row security refuses it, and partitions name their own
    // indexes when a key is there already.
    takesCopy:
      table.kind === "r" &&
      !table.triggers &&
      !table.rules &&
      !table.row_security &&
      !columns.some(({ isCast }) => isCast),
    shape,
  };
}

function problemsOf(name: string, column: ColumnRow | undefined, isKey: boolean): string[] {
  if (column === undefined) return [`it has no column ${name}`];
  const problems: string[] = [];
  if (column.generated) problems.push(`the column ${name} is generated by the table`);
  if (column.always_identity) problems.push(`the column ${name} is GENERATED ALWAYS AS IDENTITY`);
  if (!isKey) return problems;
  const isRounded = column.type === "timestamptz" && column.modifier >= 0;
  if (!column.built_in || !keyTypes.has(column.type) || isRounded)
    problems.push(`the column ${name} of type ${column.shown} cannot be part of a key`);
  if (!column.deterministic)
    problems.push(`the column ${name} has a collation that takes different texts for equal`);
  return problems;
}

function toColumn(row: ColumnRow, isKey: boolean): SinkColumn {
  const element: ColumnType | undefined =
    row.element === null
      ? undefined
      : {
          name: row.element,
          oid: Number(row.element_oid),
          // An array's own modifier is that of its elements.
          modifier: row.modifier,
          element: undefined,
        };
  const type = { name: row.type, oid: Number(row.type_oid), modifier: row.modifier, element };
  const encode = row.built_in ? encoderFor(type, isKey) : undefined;
  return {
    name: row.name,
    type,
    shown: row.shown,
    bare: row.bare,
    isNotNull: row.not_null || isKey,
    encode: encode ?? encodeCast,
    isCast: encode === undefined,
  };
}

function unsuitable({ table }: SinkDescription, problems: readonly string[]): IdempotencyError {
  return new IdempotencyError("table_unsuitable", {
    detail: `The table ${table} is not as described: ${problems.join("; ")}.`,
  });
}
