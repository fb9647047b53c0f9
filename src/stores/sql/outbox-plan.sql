-- outbox-plan: have outbox-claim walk the index of due messages in its order and stop at its limit. Run before it, in the
-- same transaction.
-- What is due changes from nothing to millions faster than statistics follow. Planned by stale ones, the claim would fetch
-- and sort the whole backlog for each batch.
-- Local to the transaction, so that nothing of it stays behind in a connection that a pooler gives to others.
SELECT set_config('enable_sort', 'off', true), set_config('enable_bitmapscan', 'off', true),
  set_config('enable_seqscan', 'off', true)
