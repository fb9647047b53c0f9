-- scopes-of: name the scopes in which a key exists, for operators who were told the key alone.
-- Parameters: $1 key  $2 most rows
-- Rows: one a scope.
-- Locks: none. Scopes come first in the primary key, so its whole index is read.
SELECT scope FROM :schema.idempotency_keys WHERE key = $1 COLLATE "C" ORDER BY scope LIMIT $2
