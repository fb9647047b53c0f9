-- The outbox: messages that leave only if the transaction that wrote them has committed.

CREATE TABLE idempotency_outbox (
  -- Derived from scope, key and the sender's name, so that the same message inserted again is the same event.
  event_id text COLLATE "C" PRIMARY KEY CHECK (event_id ~ '^evt_[A-Za-z0-9_-]{43}$'),
  -- Order within one key. Writers of one key take turns (they hold its claim), so this is also the order of their commits.
  sequence bigserial NOT NULL,
  scope text COLLATE "C" NOT NULL CHECK (scope <> ''),
  key text COLLATE "C" NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
  topic text COLLATE "C" NOT NULL CHECK (topic ~ '^[A-Za-z0-9_.:/-]{1,255}$'),
  -- json, not jsonb: receivers get, and signatures cover, the very text that was stored.
  payload json NOT NULL CHECK (octet_length(payload::text) <= 262144),
  state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'set_aside', 'skipped')),
  created_at timestamptz NOT NULL,
  -- Deliveries begun, since the message was written or requeued.
  attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
  -- When a pending message is due; while a worker holds it, the end of the lease. NULL: it waits for an earlier message of
  -- its key, and whoever finishes that one sets it.
  next_attempt_at timestamptz,
  lease_until timestamptz,
  -- Fencing number of the last claim.
  token bigint,
  last_error text CHECK (length(last_error) <= 1000),
  -- When it was delivered, or skipped by an operator. The reaper removes it some time later.
  finished_at timestamptz,
  CONSTRAINT only_pending_is_due CHECK (state = 'pending' OR next_attempt_at IS NULL),
  CONSTRAINT lease_is_a_claim CHECK (
    lease_until IS NULL OR (state = 'pending' AND token IS NOT NULL AND next_attempt_at = lease_until)),
  CONSTRAINT finished_has_time CHECK ((state IN ('delivered', 'skipped')) = (finished_at IS NOT NULL)),
  CONSTRAINT set_aside_says_why CHECK (state <> 'set_aside' OR last_error IS NOT NULL)
)
-- A queue's rows die young. By default vacuum would wait for a fifth of the table, and every look for due messages would
-- walk over the dead ones.
WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);

-- Each of these knows only the rows it is for, so that millions of delivered ones cost nothing but their space.
CREATE INDEX idempotency_outbox_due ON idempotency_outbox (next_attempt_at, sequence)
  WHERE state = 'pending' AND next_attempt_at IS NOT NULL;
CREATE INDEX idempotency_outbox_unfinished ON idempotency_outbox (scope, key, sequence) WHERE finished_at IS NULL;
CREATE INDEX idempotency_outbox_set_aside ON idempotency_outbox (sequence) WHERE state = 'set_aside';
CREATE INDEX idempotency_outbox_finished ON idempotency_outbox (finished_at) WHERE finished_at IS NOT NULL;
