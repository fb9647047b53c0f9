-- sink-table: what the catalog says of a sink's table.
-- Parameters: $1 the table, quoted
-- Rows: one, or none when there is no such table. Reads only.
-- Triggers of statements are not counted: COPY fires them as INSERT does, and they can neither drop nor change a row.
SELECT c.oid::bigint::text AS oid, c.relkind::text AS kind, n.nspname AS schema, c.relname AS name,
  (c.relrowsecurity AND (c.relforcerowsecurity OR NOT pg_has_role(c.relowner, 'USAGE'))) AS row_security,
  EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal
    AND t.tgtype & 1 = 1) AS triggers,
  c.relhasrules AS rules,
  (SELECT coalesce(json_agg(json_build_object('name', i.relname, 'primary', x.indisprimary,
      'deterministic', NOT EXISTS (SELECT FROM pg_collation o WHERE o.oid = ANY (x.indcollation::oid[]) AND NOT o.collisdeterministic),
      'columns', (
      SELECT json_agg(a.attname ORDER BY k.place)
      FROM unnest((x.indkey::int2[])[0:x.indnkeyatts - 1]) WITH ORDINALITY AS k(attnum, place)
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum))), '[]')
    FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
    WHERE x.indrelid = c.oid AND x.indisunique AND x.indisvalid AND x.indimmediate
      AND x.indpred IS NULL AND x.indexprs IS NULL) AS indexes
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass($1::text)
