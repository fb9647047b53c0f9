-- Recovery points, and what operators say of unknown outcomes.

ALTER TABLE idempotency_keys
  -- Steps routes: which handler goes on, and with what request.
  ADD COLUMN handler text COLLATE "C",
  ADD COLUMN request json,
  -- Attempts that ended with an error, and the last one's words.
  ADD COLUMN failures integer NOT NULL DEFAULT 0 CHECK (failures >= 0),
  ADD COLUMN last_error text,
  ADD CONSTRAINT steps_has_handler CHECK ((guarantee = 'steps') = (handler IS NOT NULL)),
  -- The request is kept as long as somebody may have to go on with it, and not longer.
  ADD CONSTRAINT unfinished_steps_has_request CHECK (
    (guarantee = 'steps' AND state IN ('running', 'parked')) = (request IS NOT NULL));

-- What the completer looks for. Rows of other routes have no place in it and pay nothing for it.
CREATE INDEX idempotency_keys_unfinished ON idempotency_keys (handler, (coalesce(lease_until, next_attempt_at)))
  WHERE guarantee = 'steps' AND state IN ('running', 'parked');

CREATE TABLE idempotency_steps (
  scope text COLLATE "C" NOT NULL,
  key text COLLATE "C" NOT NULL,
  -- In the order in which the handler calls them.
  position integer NOT NULL CHECK (position >= 0),
  name text COLLATE "C" NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
  kind text NOT NULL CHECK (kind IN ('transaction', 'call', 'send')),
  -- intended: a call that must not be repeated is about to be made, or was made and its result was lost.
  state text NOT NULL CHECK (state IN ('intended', 'done')),
  result json,
  -- The claim that wrote it.
  token bigint NOT NULL,
  recorded_at timestamptz NOT NULL,
  PRIMARY KEY (scope, key, position),
  UNIQUE (scope, key, name),
  FOREIGN KEY (scope, key) REFERENCES idempotency_keys ON DELETE CASCADE,
  CONSTRAINT only_calls_intend CHECK (state = 'done' OR kind = 'call'),
  CONSTRAINT done_has_result CHECK ((state = 'done') = (result IS NOT NULL))
);

-- Who settled an unknown outcome, how and why. Append-only; outlives the key.
CREATE TABLE idempotency_settlements (
  id bigserial PRIMARY KEY,
  scope text COLLATE "C" NOT NULL,
  key text COLLATE "C" NOT NULL,
  claim_id uuid NOT NULL,
  token bigint NOT NULL,
  outcome text NOT NULL CHECK (outcome IN ('completed', 'not_executed', 'released', 'retried', 'forgotten')),
  settled_by text NOT NULL CHECK (settled_by <> ''),
  why text NOT NULL CHECK (why <> ''),
  settled_at timestamptz NOT NULL
);
