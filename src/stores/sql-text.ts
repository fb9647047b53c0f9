/**
 * The embedded SQL, made ready for one schema. Owns: quoting, and the names under which statements are prepared.
 */
import { hash } from "node:crypto";
import { sql } from "../generated/scripts.js";
import type { Statement } from "./connections.js";
import { recordColumns } from "./rows.js";

export type StatementName = keyof typeof sql;
export type Statements = Readonly<Record<StatementName, Statement>>;

/** Puts the schema in the place of `:schema` in every statement, and what is read of a key in that of `:record(of)`. */
export function statementsFor(schema: string): Statements {
  const mark = hash("sha256", schema, "hex").slice(0, 16);
  const entries = Object.entries(sql).map(([name, text]) => [
    name,
    {
      // Stores of several schemas may share the pool, and a name stands for one text on each of its connections.
      name: schema === "public" ? `oncekey_${name}` : `oncekey_${name}_${mark}`,
      text: fill(text, schema),
    },
  ]);
  return Object.fromEntries(entries) as Statements;
}

function fill(text: string, schema: string): string {
  return stripComments(text)
    .replaceAll(/:record\((\w+|\(.+?\))\)/g, (_, of: string) => recordColumns(of))
    .replaceAll(":schema.", `${quoteIdentifier(schema)}.`);
}

export function quoteIdentifier(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}

/** A table as a catalog spells it, `table` or `schema.table`. */
export function quoteTable(table: string): string {
  return table.split(".").map(quoteIdentifier).join(".");
}

/** Safe whatever standard_conforming_strings says: an escape string where there is a backslash. */
export function quoteLiteral(text: string): string {
  const quoted = `'${text.replaceAll("'", "''").replaceAll("\\", "\\\\")}'`;
  return text.includes("\\") ? ` E${quoted}` : quoted;
}

/** Postgres cuts longer names short, and two schemas could become one. */
export function checkSchemaName(schema: string): string {
  if (schema === "" || Buffer.byteLength(schema) > 63 || schema.includes("\0")) {
    throw new TypeError("schema must be a name of 1 to 63 bytes");
  }
  return schema;
}

/** Headers stay in the files and do not travel with every unprepared statement. */
function stripComments(text: string): string {
  return text.replaceAll(/^\s*--.*\n/gm, "").trim();
}
