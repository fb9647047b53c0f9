/**
 * The statements of one aggregate, made of its description. Owns: how a key and its day are found for an event, in one place, so that
 * marking and computing never disagree.
 */
import { createHash } from "node:crypto";
import { quoteIdentifier, quoteLiteral, quoteTable } from "../stores/sql-text.js";
import type { ResolvedAggregate } from "./aggregate-options.js";

/**
 * How far the range of times that is read for a day reaches beyond it. Where clocks go back at midnight, part of a day lies on the
 * other side of what `AT TIME ZONE` calls its beginning; no shift but those over the date line is larger.
 */
const slack = "interval '3 hours'";
/** Local time is never further from UTC, not even before there were zones. */
const mostOffset = "interval '16 hours'";

/** Names mean to a trigger what they mean to a recompute, whoever writes the event, and whatever temporary tables that one has. */
const ownPath = "SET search_path FROM CURRENT";
const setPath = `SELECT set_config('search_path', concat_ws(', ',
  (SELECT string_agg(quote_ident(name), ', ' ORDER BY place) FROM unnest(current_schemas(false)) WITH ORDINALITY s(name, place)),
  'pg_temp'), true)`;

/** What of a description is SQL text. */
export interface AggregateSql {
  /** Parameters: $1 keys jsonb[], which the caller holds locked, $2 their first day, $3 their last. Answers (written, removed). */
  readonly recompute: string;
  /** Parameters: $1 keys jsonb[]. Answers each once, as JSON text in the one spelling. */
  readonly spell: string;
  /** Parameters: $1 day, then the values of `where`. Answers keys as JSON text. */
  keysOfDay(where: readonly string[]): string;
  /** Parameters: $1 first day or null, $2 last day or null, then the values of `where`. Answers keys as JSON text. */
  dirtyKeys(where: readonly string[]): string;
  /** Parameters: the values of `where`. Marks every key, and its neighbours in time. */
  markNeighbours(where: readonly string[]): string;
  /** What `prepare` runs in the place of another version of itself. */
  readonly install: readonly string[];
  /** The name of one of the triggers, of this very description. */
  readonly triggerName: string;
}

export function aggregateSql(
  options: ResolvedAggregate,
  types: ReadonlyMap<string, string>,
  lockHash: string,
): AggregateSql {
  const { key, day, values, schema, source, target } = options;
  const q = quoteIdentifier;
  const keyColumns = [...key, day.column];
  const events = quoteTable(source);
  const rows = quoteTable(target);
  const dirty = `${q(schema)}.idempotency_dirty_keys`;
  const name = quoteLiteral(target);
  const zone = zoneOf(options);
  const parts = keyColumns.map((column, index) => ({
    column,
    read: (from: string) => `(${from}->>${index})::${types.get(column) ?? "text"}`,
  }));
  const decoded = parts.map(({ column, read }) => `${read("k.key")} AS ${q(column)}`).join(", ");
  const encoded = (alias: string): string =>
    `jsonb_build_array(${keyColumns.map((column) => `${alias}.${q(column)}`).join(", ")})`;
  /** (key…, day) of events that are there under `alias`. */
  const placed = (from: string): string =>
    `SELECT ${key.map((column) => `(e.${q(column)})::${types.get(column) ?? "text"} AS ${q(column)}`).join(", ")},
      (e.${q(day.of)} AT TIME ZONE ${zone.name})::date AS ${q(day.column)}
    FROM ${from} e ${zone.join("e")}`;
  const allThere = [...key, day.of].map((column) => `e.${q(column)} IS NOT NULL`).join(" AND ");
  const equal = (a: string, b: string, columns: readonly string[]): string =>
    columns.map((column) => `${a}.${q(column)} = ${b}.${q(column)}`).join(" AND ");
  const whereText = (alias: string, where: readonly string[], first: number): string =>
    where
      .map(
        (column, index) => ` AND ${alias}.${q(column)} = $${first + index}::${types.get(column)}`,
      )
      .join("");
  const valueColumns = Object.keys(values).map(q);
  const mark = (from: string): string => `
    INSERT INTO ${dirty} (aggregate, key)
    SELECT ${name}, ${encoded("m")}
    FROM (SELECT DISTINCT p.* FROM (${from}) p) m;`;

  const carried = keyColumns.map((_, index) => `oncekey_${index}`);
  const recompute = `
    WITH wanted AS MATERIALIZED (
      SELECT k.slot, ${decoded}
      FROM unnest($1::jsonb[]) WITH ORDINALITY AS k(key, slot)
    ), placed AS MATERIALIZED (
      SELECT e.*, ${zone.name} AS oncekey_zone,
        (e.${q(day.column)}::timestamp AT TIME ZONE ${zone.name}) - ${slack} AS oncekey_from,
        ((e.${q(day.column)} + 1)::timestamp AT TIME ZONE ${zone.name}) + ${slack} AS oncekey_to
      FROM wanted e ${zone.join("e")}
    ), dated AS MATERIALIZED (
      -- A day reaches into a few of UTC. An event has one of them, by which it finds its day among the many of its key.
      SELECT p.*, u.day AS oncekey_utc
      FROM placed p, generate_series(0, 3) n, LATERAL (SELECT (p.oncekey_from AT TIME ZONE 'UTC')::date + n AS day) u
      WHERE u.day <= (p.oncekey_to AT TIME ZONE 'UTC')::date
    ), fresh AS MATERIALIZED (
      -- With the key: no join of this, of which the planner knows nothing, with anything is needed afterwards.
      SELECT e.oncekey_slot AS slot, ${carried.map((column) => `e.${column}`).join(", ")},
        ${Object.entries(values)
          .map(([column, expression]) => `${expression} AS ${q(column)}`)
          .join(", ")}
      FROM (
        SELECT w.slot AS oncekey_slot,
          ${keyColumns.map((column, index) => `w.${q(column)} AS oncekey_${index}`).join(", ")}, s.*
        FROM dated w
        JOIN ${events} s ON ${equal("s", "w", key)}
          AND (s.${q(day.of)} AT TIME ZONE 'UTC')::date = w.oncekey_utc
          AND s.${q(day.of)} >= w.oncekey_from AND s.${q(day.of)} < w.oncekey_to
          AND (s.${q(day.of)} AT TIME ZONE w.oncekey_zone)::date = w.${q(day.column)}
        -- The same once more for all together, which an index on the time alone can use, and whose share the planner can know.
        WHERE s.${q(day.of)} >= ($2::date::timestamp AT TIME ZONE 'UTC') - ${mostOffset} - ${slack}
          AND s.${q(day.of)} < (($3::date + 1)::timestamp AT TIME ZONE 'UTC') + ${mostOffset} + ${slack}
      ) e
      GROUP BY e.oncekey_slot, ${carried.map((column) => `e.${column}`).join(", ")}
    ), removed AS (
      -- NOT IN, which is looked up in a hash whatever the planner believes.
      DELETE FROM ${rows} t USING wanted w
      WHERE ${equal("t", "w", keyColumns)} AND w.slot NOT IN (SELECT f.slot FROM fresh f)
      RETURNING 1
    ), written AS (
      INSERT INTO ${rows} AS t (${[...keyColumns.map(q), ...valueColumns].join(", ")})
      SELECT ${[...carried, ...valueColumns].map((column) => `f.${column}`).join(", ")}
      FROM fresh f
      ON CONFLICT (${keyColumns.map(q).join(", ")})
      DO UPDATE SET ${valueColumns.map((column) => `${column} = excluded.${column}`).join(", ")}
      WHERE ${valueColumns.map((column) => `t.${column} IS DISTINCT FROM excluded.${column}`).join(" OR ")}
      RETURNING 1
    ), cleared AS (
      -- One statement is one snapshot: what it sees of marks goes with what it saw of events, and no other mark does.
      DELETE FROM ${dirty} d USING unnest($1::jsonb[]) AS k(key)
      WHERE d.aggregate = ${name} AND d.key = k.key
    )
    SELECT (SELECT count(*) FROM written)::int AS written, (SELECT count(*) FROM removed)::int AS removed`;

  const triggers = triggerNames(target, [
    recompute,
    mark(placed("changed")),
    lockHash,
    source,
    ownPath,
    setPath,
  ]);
  const triggerFunction = (suffix: string, from: string): string => `
    CREATE OR REPLACE FUNCTION ${q(schema)}.${q(`${triggers.now}_${suffix}`)}() RETURNS trigger LANGUAGE plpgsql ${ownPath} AS $oncekey$
    BEGIN
      -- Whoever changes a time zone waits for those who have read the old one.
      PERFORM pg_advisory_xact_lock_shared(${lockHash});
      ${mark(from)}
      RETURN NULL;
    END $oncekey$`;
  const trigger = (suffix: string, event: string, tables: string): string => `
    CREATE TRIGGER ${q(`${triggers.now}_${suffix}`)} AFTER ${event} ON ${events} REFERENCING ${tables}
    FOR EACH STATEMENT EXECUTE FUNCTION ${q(schema)}.${q(`${triggers.now}_${suffix}`)}()`;
  const one = `${placed("changed")} WHERE ${allThere}`;
  const both = `${placed("(SELECT * FROM before UNION ALL SELECT * FROM changed)")} WHERE ${allThere}`;

  return {
    recompute,
    spell: `
      SELECT DISTINCT ${encoded("p")}::text AS key
      FROM (SELECT ${decoded} FROM unnest($1::jsonb[]) AS k(key)) p`,
    keysOfDay: (where) => `
      SELECT DISTINCT ${encoded("p")}::text AS key
      FROM (
        ${placed(events)}
        WHERE e.${q(day.of)} >= ($1::date::timestamp AT TIME ZONE 'UTC') - ${mostOffset}
          AND e.${q(day.of)} < (($1::date + 1)::timestamp AT TIME ZONE 'UTC') + ${mostOffset}
          AND ${allThere}${whereText("e", where, 2)}
        UNION ALL
        SELECT ${keyColumns.map((column) => `t.${q(column)}`).join(", ")} FROM ${rows} t
        WHERE t.${q(day.column)} = $1::date${whereText("t", where, 2)}
      ) p
      WHERE p.${q(day.column)} = $1::date`,
    dirtyKeys: (where) => `
      SELECT DISTINCT ${encoded("p")}::text AS key
      FROM (SELECT ${decoded} FROM ${dirty} k WHERE k.aggregate = ${name}) p
      WHERE ($1::date IS NULL OR p.${q(day.column)} >= $1::date)
        AND ($2::date IS NULL OR p.${q(day.column)} <= $2::date)${whereText("p", where, 3)}`,
    markNeighbours: (where) => `
      INSERT INTO ${dirty} (aggregate, key)
      SELECT DISTINCT ${name}, jsonb_build_array(${key.map((column) => `p.${q(column)}`).join(", ")}, p.${q(day.column)} + n)
      FROM (
        SELECT ${keyColumns.map((column) => `t.${q(column)}`).join(", ")} FROM ${rows} t
        UNION ALL
        SELECT ${decoded} FROM ${dirty} k WHERE k.aggregate = ${name}
      ) p, generate_series(-1, 1) n
      WHERE true${whereText("p", where, 1)}`,
    install: [
      setPath,
      triggerFunction("i", one),
      triggerFunction("u", both),
      triggerFunction("d", one),
      trigger("i", "INSERT", "NEW TABLE AS changed"),
      trigger("u", "UPDATE", "OLD TABLE AS before NEW TABLE AS changed"),
      trigger("d", "DELETE", "OLD TABLE AS changed"),
    ],
    triggerName: `${triggers.now}_i`,
  };
}

/** `oncekey_<aggregate>_`, which all versions share, and the version: a description that changed has other triggers. */
export function triggerNames(
  target: string,
  texts: readonly string[] = [],
): { readonly all: string; readonly now: string } {
  const hash = (text: string): string =>
    createHash("sha256").update(text).digest("hex").slice(0, 10);
  const all = `oncekey_${hash(target)}_`;
  return { all, now: all + hash(texts.join("\0")) };
}

/** How a statement gets at the zone of a row. */
function zoneOf({ day, key }: ResolvedAggregate): {
  readonly name: string;
  join(alias: string): string;
} {
  const { timeZone } = day;
  if (typeof timeZone === "string") return { name: quoteLiteral(timeZone), join: () => "" };
  const { table, on, column, otherwise = "UTC" } = timeZone;
  const shared = key.filter((part) => on.includes(part)).map(quoteIdentifier);
  return {
    name: `coalesce(z.${quoteIdentifier(column)}, ${quoteLiteral(otherwise)})`,
    join: (alias) =>
      `LEFT JOIN ${quoteTable(table)} z ON ${shared.map((part) => `z.${part} = ${alias}.${part}`).join(" AND ")}`,
  };
}
