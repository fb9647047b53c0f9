-- One CHECK in the place of eighteen: every statement that writes a row reads the trees of all its table's constraints anew,
-- however few rows it writes, and those of the first two files took longer than the writing. A function's is short, and what it says
-- is compiled once a connection. The rules are the same.

CREATE FUNCTION idempotency_key_is_sound(
  scope text, key text, state text, guarantee text, attempt integer, failures integer, not_stored boolean,
  status smallint, has_head boolean, has_body boolean, handler text, has_request boolean,
  lease_until timestamptz, next_attempt_at timestamptz, completed_at timestamptz, replay_until timestamptz,
  dedupe_until timestamptz, reap_at timestamptz
) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  broken text := CASE
    WHEN scope = '' THEN 'scope_is_not_empty'
    WHEN length(key) NOT BETWEEN 1 AND 255 THEN 'key_has_1_to_255_characters'
    WHEN state NOT IN ('running', 'completed', 'parked', 'forgotten') THEN 'state_is_known'
    WHEN guarantee NOT IN ('at_most_once', 'rerun', 'transaction', 'steps') THEN 'guarantee_is_known'
    WHEN attempt < 1 THEN 'attempts_are_counted_from_1'
    WHEN failures < 0 THEN 'failures_are_counted_from_0'
    WHEN status NOT BETWEEN 100 AND 999 THEN 'status_is_one_of_http'
    WHEN (state = 'running') <> (lease_until IS NOT NULL) THEN 'running_has_lease'
    WHEN next_attempt_at IS NOT NULL AND state <> 'parked' THEN 'only_parked_waits'
    WHEN state = 'parked' AND guarantee <> 'steps' THEN 'parked_is_steps'
    WHEN (state IN ('completed', 'forgotten')) <>
      (completed_at IS NOT NULL AND replay_until IS NOT NULL AND dedupe_until IS NOT NULL AND reap_at IS NOT NULL)
      THEN 'finished_has_windows'
    WHEN (state = 'completed' AND NOT not_stored) <> (status IS NOT NULL AND has_head AND has_body)
      THEN 'completed_has_response'
    WHEN dedupe_until < replay_until THEN 'windows_in_order'
    WHEN (guarantee = 'steps') <> (handler IS NOT NULL) THEN 'steps_has_handler'
    WHEN (guarantee = 'steps' AND state IN ('running', 'parked')) <> has_request THEN 'unfinished_steps_has_request'
  END;
BEGIN
  IF broken IS NULL THEN RETURN true; END IF;
  RAISE check_violation USING MESSAGE = format('a row of idempotency_keys breaks the rule %s', broken), CONSTRAINT = broken;
END
$$;

DO $$
DECLARE
  rule name;
BEGIN
  FOR rule IN SELECT conname FROM pg_constraint WHERE conrelid = 'idempotency_keys'::regclass AND contype = 'c' LOOP
    EXECUTE format('ALTER TABLE idempotency_keys DROP CONSTRAINT %I', rule);
  END LOOP;
END
$$;

-- What is there was held by the same rules, and reading it all again would keep everybody waiting.
ALTER TABLE idempotency_keys ADD CONSTRAINT idempotency_key_is_sound CHECK (idempotency_key_is_sound(
  scope, key, state, guarantee, attempt, failures, not_stored, status, head IS NOT NULL, body IS NOT NULL, handler,
  request IS NOT NULL, lease_until, next_attempt_at, completed_at, replay_until, dedupe_until, reap_at)) NOT VALID;
