-- Aggregates: which of their rows must be computed anew.

-- Append-only for those who write events: one row for each key that a statement has touched, in the statement's own transaction.
-- There is no unique key on purpose. Where a mark is there already, the one who would do without a second one relies on a
-- recompute that may have taken its snapshot before the new events were committed. Only a recompute deletes, and only what it saw.
CREATE TABLE idempotency_dirty_keys (
  -- Oldest first; says nothing of the order of commits.
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  aggregate text COLLATE "C" NOT NULL CHECK (aggregate <> ''),
  -- The values of the key's columns in their order, the day last.
  key jsonb NOT NULL CHECK (jsonb_typeof(key) = 'array')
)
-- A queue's rows die young, as those of the outbox.
WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);

-- What is locked while a key is computed anew. The aggregate's own row cannot be: it may not be there yet, or no more.
CREATE TABLE idempotency_aggregate_keys (
  aggregate text COLLATE "C" NOT NULL,
  key jsonb NOT NULL,
  PRIMARY KEY (aggregate, key)
);
