-- The ledger of sinks: a batch that is here has been committed, with these counts. It goes in with the batch's rows.

CREATE TABLE idempotency_batches (
  -- The table that the rows went to, as schema.table. Two sinks may use one batch id.
  target text COLLATE "C" NOT NULL CHECK (target <> ''),
  batch_id text COLLATE "C" NOT NULL CHECK (length(batch_id) BETWEEN 1 AND 255),
  -- SHA-256 of the rows where the batch id came from the user; the same id with other rows is a mistake.
  digest bytea CHECK (length(digest) = 32),
  -- NULL only inside the batch's own transaction, which has to count first.
  inserted bigint CHECK (inserted >= 0),
  updated bigint CHECK (updated >= 0),
  unchanged bigint CHECK (unchanged >= 0),
  duplicates bigint CHECK (duplicates >= 0),
  written_at timestamptz NOT NULL,
  PRIMARY KEY (target, batch_id),
  CONSTRAINT counts_together CHECK (num_nulls(inserted, updated, unchanged, duplicates) IN (0, 4))
)
-- Every row is updated once, by the transaction that inserted it; the room that takes is then used by that update.
WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX idempotency_batches_written ON idempotency_batches (written_at);
