-- find: read keys.
-- Parameters, arrays of one length: $1 scope text[]  $2 key text[]
-- Rows: one for each key that exists, with what is read of it (see rows.ts) and its `slot`, counting from 1.
-- Locks: none.
SELECT :record(k), i.position::int AS slot
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS i (scope, key, position)
JOIN :schema.idempotency_keys k ON k.scope = i.scope COLLATE "C" AND k.key = i.key COLLATE "C"
