-- How far each source has been read. A position moves in the transaction that stores the rows read up to it.

-- Kafka: the offset of the message that comes next.
CREATE TABLE idempotency_positions (
  source text COLLATE "C" NOT NULL CHECK (length(source) BETWEEN 1 AND 255),
  topic text COLLATE "C" NOT NULL CHECK (topic <> ''),
  part integer NOT NULL CHECK (part >= 0),
  position bigint NOT NULL CHECK (position >= 0),
  moved_at timestamptz NOT NULL,
  PRIMARY KEY (source, topic, part)
) WITH (fillfactor = 50);

-- Redis Streams: entries of a group are finished in any order, so each one is noted.
CREATE TABLE idempotency_entries (
  source text COLLATE "C" NOT NULL CHECK (length(source) BETWEEN 1 AND 255),
  entry text COLLATE "C" NOT NULL CHECK (entry <> ''),
  stored_at timestamptz NOT NULL,
  PRIMARY KEY (source, entry)
);

CREATE INDEX idempotency_entries_stored ON idempotency_entries (stored_at);
