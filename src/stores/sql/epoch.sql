-- epoch: name the history this database is in.
-- Rows: one. The meta row's epoch, the cluster's identifier and its timeline: a point-in-time restore and the promotion of a
--   replica begin a new timeline, a restored dump lives in another cluster (or wants `oncekey migrate --new-epoch`).
-- Locks: none.
-- The checkpoint shows a new timeline only after the first one since a promotion, minutes later on a busy server; until
-- then the end of recovery shows it (0 afterwards).
SELECT m.epoch::text || '.' || s.system_identifier::text || '.' ||
  greatest(c.timeline_id, r.min_recovery_end_timeline)::text AS epoch
FROM :schema.idempotency_meta m, pg_control_system() s, pg_control_checkpoint() c, pg_control_recovery() r
