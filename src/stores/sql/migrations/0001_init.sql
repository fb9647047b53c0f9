-- The tables of oncekey's HTTP half. Append-only: a later change is a later file.
-- Runs in one transaction, with the search_path set to the chosen schema.

-- One row: names this database's history. Cached responses carry it (with the cluster's timeline), so that a restored
-- database does not answer from a cache of its own future.
CREATE TABLE idempotency_meta (
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  epoch uuid NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO idempotency_meta DEFAULT VALUES;

-- Fencing tokens. Never restarted: a token of an older life of a key must stay smaller than every later one.
CREATE SEQUENCE idempotency_token_seq AS bigint;

-- The clock of leases and windows. clock_timestamp(), not now(): now() stands still inside a transaction.
-- Tests replace this function to move time.
CREATE FUNCTION idempotency_now() RETURNS timestamptz
  LANGUAGE sql VOLATILE AS 'SELECT clock_timestamp()';

CREATE TABLE idempotency_keys (
  scope text COLLATE "C" NOT NULL CHECK (scope <> ''),
  key text COLLATE "C" NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
  state text NOT NULL CHECK (state IN ('running', 'completed', 'parked', 'forgotten')),
  guarantee text NOT NULL CHECK (guarantee IN ('at_most_once', 'rerun', 'transaction', 'steps')),
  claim_id uuid NOT NULL,
  token bigint NOT NULL,
  attempt integer NOT NULL DEFAULT 1 CHECK (attempt >= 1),
  -- Until when a running claim is believed without a heartbeat.
  lease_until timestamptz,
  -- When a parked request is due; NULL when it was set aside.
  next_attempt_at timestamptz,
  fingerprint text NOT NULL,
  -- Short keyed hashes per field, to name what differs. json, not jsonb: it is only ever read whole.
  field_hashes json NOT NULL,
  method text NOT NULL,
  path text NOT NULL,
  request_id text NOT NULL,
  -- The response was too large or a stream: it cannot be replayed.
  not_stored boolean NOT NULL DEFAULT false,
  status smallint CHECK (status BETWEEN 100 AND 999),
  -- { statusMessage?, headers, removedHeaders? }
  head json,
  body bytea,
  created_at timestamptz NOT NULL,
  completed_at timestamptz,
  replay_until timestamptz,
  dedupe_until timestamptz,
  -- When the reaper has something to do: the end of the replay window, then the end of the dedupe window.
  reap_at timestamptz,
  PRIMARY KEY (scope, key),
  CONSTRAINT running_has_lease CHECK ((state = 'running') = (lease_until IS NOT NULL)),
  CONSTRAINT only_parked_waits CHECK (next_attempt_at IS NULL OR state = 'parked'),
  CONSTRAINT parked_is_steps CHECK (state <> 'parked' OR guarantee = 'steps'),
  CONSTRAINT finished_has_windows CHECK (
    (state IN ('completed', 'forgotten')) =
      (completed_at IS NOT NULL AND replay_until IS NOT NULL AND dedupe_until IS NOT NULL AND reap_at IS NOT NULL)),
  CONSTRAINT completed_has_response CHECK (
    (state = 'completed' AND NOT not_stored) = (status IS NOT NULL AND head IS NOT NULL AND body IS NOT NULL)),
  CONSTRAINT windows_in_order CHECK (dedupe_until >= replay_until)
);

CREATE INDEX idempotency_keys_reap ON idempotency_keys (reap_at) WHERE reap_at IS NOT NULL;
