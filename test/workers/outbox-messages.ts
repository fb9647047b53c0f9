/** Messages put into the outbox as a committed request would, for tests of what comes out. */
import type pg from "pg";

import { insertOutbox, outboxMessage } from "../../src/stores/outbox.js";
import { statementsFor } from "../../src/stores/sql-text.js";

export const testSecret = `whsec_${Buffer.from("a secret of more than twenty-four bytes").toString("base64")}`;

/** `count` messages of one key in one transaction; payloads are `{ key, position }`. Answers their event ids. */
export async function sendMessages(
  pool: pg.Pool,
  key: string,
  count = 1,
  { first = 1, topic = "order.paid" }: { first?: number; topic?: string } = {},
): Promise<string[]> {
  const statements = statementsFor("public");
  const client = await pool.connect();
  const ids: string[] = [];
  try {
    await client.query("BEGIN");
    for (let position = first; position < first + count; position += 1) {
      const ref = { scope: "acme", key };
      const message = outboxMessage(ref, `send ${position}`, topic, { key, position });
      await insertOutbox(
        ({ text }, values) => client.query(text, [...values]),
        statements,
        message,
      );
      ids.push(message.eventId);
    }
    await client.query("COMMIT");
  } finally {
    client.release();
  }
  return ids;
}

/** Many keys with so many messages each, in one statement. */
export async function sendMany(pool: pg.Pool, keys: number, each: number): Promise<void> {
  await pool.query(
    `INSERT INTO idempotency_outbox (event_id, scope, key, topic, payload, created_at, next_attempt_at)
     SELECT 'evt_' || rpad(k || '_' || p || '_', 43, '0'), 'acme', 'key-' || k, 'order.paid',
       json_build_object('key', 'key-' || k, 'position', p), idempotency_now(),
       CASE WHEN p = 1 THEN idempotency_now() END
     FROM generate_series(1, $1::int) k, generate_series(1, $2::int) p
     ORDER BY p, k`,
    [keys, each],
  );
}

export type MessageRow = {
  readonly state: string;
  readonly attempts: number;
  readonly last_error: string | null;
  /** Milliseconds until it is due, by the database's clock. */
  readonly due_in_ms: number | null;
};

export async function messageRow(pool: pg.Pool, eventId: string): Promise<MessageRow> {
  const { rows } = await pool.query<MessageRow>(
    `SELECT state, attempts, last_error,
       (extract(epoch FROM next_attempt_at - idempotency_now()) * 1000)::float8 AS due_in_ms
     FROM idempotency_outbox WHERE event_id = $1`,
    [eventId],
  );
  return rows[0] as MessageRow;
}

export async function countStates(pool: pg.Pool): Promise<Record<string, number>> {
  const { rows } = await pool.query<{ state: string; count: number }>(
    "SELECT state, count(*)::int AS count FROM idempotency_outbox GROUP BY state",
  );
  return Object.fromEntries(rows.map(({ state, count }) => [state, count]));
}
