-- sink-columns: the columns of a sink's table, a domain as the type it is of.
-- Parameters: $1 oid of the table
-- Rows: one a column. Reads only.
SELECT a.attname AS name, b.typname AS type, b.oid::bigint::text AS type_oid, format_type(a.atttypid, a.atttypmod) AS shown,
  (WITH RECURSIVE base AS (
      SELECT d.oid, d.typtype, d.typbasetype FROM pg_type d WHERE d.oid = a.atttypid
      UNION ALL
      SELECT d.oid, d.typtype, d.typbasetype FROM base JOIN pg_type d ON d.oid = base.typbasetype WHERE base.typtype = 'd')
    SELECT format_type(base.oid, -1) FROM base WHERE base.typtype <> 'd') AS bare,
  CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END AS modifier,
  b.typnamespace = 'pg_catalog'::regnamespace AS built_in,
  e.typname AS element, e.oid::bigint::text AS element_oid,
  a.attnotnull OR t.typnotnull AS not_null,
  a.attgenerated <> '' AS generated,
  a.attidentity = 'a' AS always_identity,
  coalesce(o.collisdeterministic, true) AS deterministic
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
JOIN pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
LEFT JOIN pg_type e ON e.oid = b.typelem AND b.typcategory = 'A' AND b.typname LIKE '\_%'
LEFT JOIN pg_collation o ON o.oid = a.attcollation
WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped
