-- batch-begin: enter a batch into the ledger, at the start of its transaction.
-- Parameters: $1 target  $2 batch id  $3 digest or null
-- Rows: one when entered; none when the batch is there already: it was committed, and batch-find has its counts.
-- Locks: the ledger row's key until the end. A transaction of the same batch whose COMMIT was sent and not answered holds it,
--   and is waited for here: afterwards either its row is seen, or it is known to have left nothing.
INSERT INTO :schema.idempotency_batches (target, batch_id, digest, written_at)
VALUES ($1::text, $2::text, $3::bytea, :schema.idempotency_now())
ON CONFLICT (target, batch_id) DO NOTHING
RETURNING true AS entered
