/**
 * What a sink relies on of its table, as one text. Owns: what is in it. A batch whose table has another shape than the one that the
 * sink was opened on must never be written: rows are encoded for the old types already.
 */
import { quoteLiteral } from "../stores/sql-text.js";

/**
 * Keeps the table's columns and unique indexes as they are until the end of the transaction: their changes take the whole table.
 * Needs no privilege but to read any of the columns, and passes over partitions, which change with their table.
 */
export function holdTableSql(quoted: string): string {
  return `SELECT FROM ONLY ${quoted} WHERE false`;
}

/**
 * The types of the columns, the unique indexes on columns of the key, and what COPY would pass over. Without parameters, so that a
 * prepared one is planned once, whatever plan_cache_mode says.
 */
export function shapeSql(
  quoted: string,
  columns: readonly string[],
  key: readonly string[],
): string {
  return `SELECT concat_ws(' ', c.relkind, c.relrowsecurity, c.relforcerowsecurity,
      EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid),
      EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgtype & 1 = 1),
      (SELECT string_agg(quote_ident(i.relname), ',' ORDER BY i.relname)
        FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
        WHERE x.indrelid = c.oid AND x.indisunique AND x.indisvalid AND x.indimmediate
          AND x.indpred IS NULL AND x.indexprs IS NULL
          AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY ((x.indkey::int2[])[0:x.indnkeyatts - 1])
            AND a.attname NOT IN (${listOf(key)}))),
      (SELECT string_agg(concat_ws(':', a.attname, a.atttypid, a.atttypmod, a.attcollation, a.attgenerated, a.attidentity),
          ',' ORDER BY a.attname)
        FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attname IN (${listOf(columns)}))) AS shape
    FROM pg_class c WHERE c.oid = to_regclass(${quoteLiteral(quoted)})`;
}

function listOf(names: readonly string[]): string {
  return names.map(quoteLiteral).join(", ");
}
