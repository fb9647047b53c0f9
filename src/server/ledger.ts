/**
 * The books: charges and orders in Postgres. Owns: their tables, and how rows become the objects that clients see, in one
 * place, so that a charge read later equals the one that was answered. Knows nothing of idempotency but the key it notes.
 */
import { randomBytes } from "node:crypto";
import type { Pool, PoolClient, QueryResult, QueryResultRow } from "pg";
import type { Account } from "./config.js";
import type { ChargeRequest } from "./charge-request.js";
import type { OrderItem, OrderRequest } from "./order-request.js";

/** A pool, or the transaction of a route. */
export interface Queryable {
  query<Row extends QueryResultRow>(text: string, values?: unknown[]): Promise<QueryResult<Row>>;
}

export interface Charge {
  readonly id: string;
  readonly object: "charge";
  readonly amount: number;
  readonly amount_captured: number;
  readonly amount_refunded: number;
  readonly captured: boolean;
  /** Unix seconds, by the database's clock. */
  readonly created: number;
  readonly currency: string;
  readonly description: string | null;
  readonly livemode: boolean;
  readonly metadata: Readonly<Record<string, string>>;
  readonly paid: boolean;
  readonly refunded: boolean;
  readonly source: string;
  readonly status: "succeeded";
}

export interface Order {
  readonly id: string;
  readonly object: "order";
  readonly created: number;
  readonly currency: string;
  readonly customer: string | null;
  readonly items: readonly OrderItem[];
  readonly livemode: boolean;
  readonly status: "created";
  readonly total: number;
}

/**
 * `idempotency_key` is no unique key: without one a charge may be made as often as it is asked for, and a key may name
 * other work when its dedupe window is over. That a key charges once is oncekey's promise and not this table's.
 * json keeps what was sent in its order; jsonb would not.
 */
const tables = `
  CREATE TABLE IF NOT EXISTS charges (
    id text COLLATE "C" PRIMARY KEY,
    position bigint GENERATED ALWAYS AS IDENTITY,
    account text NOT NULL,
    livemode boolean NOT NULL,
    amount integer NOT NULL CHECK (amount > 0),
    currency text NOT NULL CHECK (length(currency) = 3),
    idempotency_key text,
    source text NOT NULL,
    description text,
    metadata json NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
  );
  CREATE INDEX IF NOT EXISTS charges_by_account ON charges (account, livemode, position);
  CREATE TABLE IF NOT EXISTS orders (
    id text COLLATE "C" PRIMARY KEY,
    position bigint GENERATED ALWAYS AS IDENTITY,
    account text NOT NULL,
    livemode boolean NOT NULL,
    currency text NOT NULL CHECK (length(currency) = 3),
    customer text,
    items json NOT NULL,
    total bigint NOT NULL,
    idempotency_key text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
  );
  CREATE INDEX IF NOT EXISTS orders_by_account ON orders (account, livemode, position);`;

/** Any number will do, if nothing else in the database uses it: IF NOT EXISTS alone fails when two processes race. */
const ledgerLock = 720_913_355_028;

/** Creates what is missing, `more` included; safe when several servers start at once. */
export async function migrateLedger(pool: Pool, more = ""): Promise<void> {
  // Several statements in one message are one transaction, which the lock lives as long as.
  await pool.query(`SELECT pg_advisory_xact_lock(${ledgerLock}); ${tables} ${more}`);
}

/** Rejects where a table of the books is missing. */
export async function assertLedger(pool: Pool): Promise<void> {
  await pool.query(
    "SELECT FROM charges, orders, checkouts, stock, events, merchants, revenue_daily LIMIT 0",
  );
}

const chargeColumns = `id, livemode, amount, currency, source, description, metadata,
  floor(extract(epoch FROM created_at))::bigint AS created`;

interface ChargeRow {
  readonly id: string;
  readonly livemode: boolean;
  readonly amount: number;
  readonly currency: string;
  readonly source: string;
  readonly description: string | null;
  readonly metadata: Record<string, string>;
  readonly created: string;
}

/** Books a charge through the transaction it is given; nothing is charged unless that one commits. */
export async function insertCharge(
  tx: PoolClient,
  account: Account,
  request: ChargeRequest,
  idempotencyKey: string | undefined,
): Promise<Charge> {
  const result = await tx.query<ChargeRow>(
    `INSERT INTO charges
       (id, account, livemode, amount, currency, idempotency_key, source, description, metadata)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING ${chargeColumns}`,
    [
      newId("ch"),
      account.id,
      account.livemode,
      request.amount,
      request.currency,
      idempotencyKey ?? null,
      request.source,
      request.description ?? null,
      JSON.stringify(request.metadata),
    ],
  );
  return toCharge(result.rows[0] as ChargeRow);
}

export async function findCharge(
  db: Queryable,
  account: Account,
  id: string,
): Promise<Charge | undefined> {
  if (!isId("ch", id)) return undefined;
  const result = await db.query<ChargeRow>(
    `SELECT ${chargeColumns} FROM charges WHERE id = $1 AND account = $2 AND livemode = $3`,
    [id, account.id, account.livemode],
  );
  const [row] = result.rows;
  return row === undefined ? undefined : toCharge(row);
}

/** The account's charges, newest first, from behind the one that `startingAfter` names; `unknown_start` where it has none. */
export async function listCharges(
  db: Queryable,
  account: Account,
  page: { readonly limit: number; readonly startingAfter: string | undefined },
): Promise<{ readonly charges: Charge[]; readonly hasMore: boolean } | "unknown_start"> {
  const owner = [account.id, account.livemode];
  let before: string | null = null;
  if (page.startingAfter !== undefined) {
    const start = await db.query<{ position: string }>(
      "SELECT position FROM charges WHERE account = $1 AND livemode = $2 AND id = $3",
      [...owner, page.startingAfter],
    );
    const [row] = start.rows;
    if (row === undefined) return "unknown_start";
    before = row.position;
  }
  // One more than asked for tells whether there are more.
  const result = await db.query<ChargeRow>(
    `SELECT ${chargeColumns} FROM charges
      WHERE account = $1 AND livemode = $2 AND ($3::bigint IS NULL OR position < $3)
      ORDER BY position DESC LIMIT $4`,
    [...owner, before, page.limit + 1],
  );
  const charges = result.rows.slice(0, page.limit).map(toCharge);
  return { charges, hasMore: result.rows.length > page.limit };
}

const orderColumns = `id, livemode, currency, customer, items, total,
  floor(extract(epoch FROM created_at))::bigint AS created`;

interface OrderRow {
  readonly id: string;
  readonly livemode: boolean;
  readonly currency: string;
  readonly customer: string | null;
  readonly items: OrderItem[];
  readonly total: string;
  readonly created: string;
}

export async function insertOrder(
  db: Queryable,
  account: Account,
  request: OrderRequest,
  idempotencyKey: string | undefined,
): Promise<Order> {
  const total = request.items.reduce((sum, item) => sum + item.quantity * item.unit_amount, 0);
  const result = await db.query<OrderRow>(
    `INSERT INTO orders (id, account, livemode, currency, customer, items, total, idempotency_key)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING ${orderColumns}`,
    [
      newId("or"),
      account.id,
      account.livemode,
      request.currency,
      request.customer ?? null,
      JSON.stringify(request.items),
      total,
      idempotencyKey ?? null,
    ],
  );
  return toOrder(result.rows[0] as OrderRow);
}

export async function findOrder(
  db: Queryable,
  account: Account,
  id: string,
): Promise<Order | undefined> {
  if (!isId("or", id)) return undefined;
  const result = await db.query<OrderRow>(
    `SELECT ${orderColumns} FROM orders WHERE id = $1 AND account = $2 AND livemode = $3`,
    [id, account.id, account.livemode],
  );
  const [row] = result.rows;
  return row === undefined ? undefined : toOrder(row);
}

function toCharge(row: ChargeRow): Charge {
  return {
    id: row.id,
    object: "charge",
    amount: row.amount,
    amount_captured: row.amount,
    amount_refunded: 0,
    captured: true,
    created: Number(row.created),
    currency: row.currency,
    description: row.description,
    livemode: row.livemode,
    metadata: row.metadata,
    paid: true,
    refunded: false,
    source: row.source,
    status: "succeeded",
  };
}

function toOrder(row: OrderRow): Order {
  return {
    id: row.id,
    object: "order",
    created: Number(row.created),
    currency: row.currency,
    customer: row.customer,
    items: row.items,
    livemode: row.livemode,
    status: "created",
    total: Number(row.total),
  };
}

/** 96 random bits: ids are names, and must tell nobody how many charges there are. */
export function newId(prefix: string): string {
  return `${prefix}_${randomBytes(12).toString("hex")}`;
}

/** Postgres refuses some texts that a path may hold, such as NUL; none of them is an id. */
export function isId(prefix: string, text: string): boolean {
  return text.startsWith(`${prefix}_`) && /^[a-z]+_[0-9a-f]{24}$/.test(text);
}
