-- sink-storage: a table's name in the ledger, where its rows are stored, and the columns that can be written.
-- Parameters: $1 the table, quoted
-- Rows: one, or none when there is no such table. Reads only.
-- A table that is truncated, or dropped and made anew, is stored elsewhere: what was written before is not in it.
SELECT n.nspname || '.' || c.relname AS target,
  concat_ws(',', c.oid::bigint || ':' || pg_relation_filenode(c.oid),
    (SELECT string_agg(t.relid::oid::bigint || ':' || pg_relation_filenode(t.relid), ',' ORDER BY t.relid::oid)
      FROM pg_partition_tree(c.oid) t)) AS storage,
  (SELECT json_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
      AND a.attgenerated = '' AND a.attidentity <> 'a') AS columns
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass($1::text)
