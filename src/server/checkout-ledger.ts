/**
 * The books of checkouts: stock, and what was reserved of it for whom. Owns: their tables, and that stock moves together with
 * the checkout it moves for. Every function works in the transaction it is given and ends none.
 */
import type { Account } from "./config.js";
import type { CheckoutRequest } from "./checkout-request.js";
import { isId, newId } from "./ledger.js";
import type { Queryable } from "./ledger.js";

export interface Checkout {
  readonly id: string;
  readonly object: "checkout";
  /** The provider's charge; null until there is one. */
  readonly charge: string | null;
  readonly created: number;
  readonly currency: string;
  readonly customer: string | null;
  readonly items: readonly CheckoutItem[];
  readonly livemode: boolean;
  readonly status: "reserved" | "paid" | "declined";
  readonly total: number;
}

export interface CheckoutItem {
  readonly sku: string;
  readonly quantity: number;
  readonly unit_amount: number;
}

/** What came of a reservation; the item that is not to be had is named by its place in the request. */
export type Reservation =
  | { readonly kind: "reserved"; readonly id: string; readonly total: number }
  | { readonly kind: "out_of_stock"; readonly item: number };

export const checkoutTables = `
  CREATE TABLE IF NOT EXISTS stock (
    sku text COLLATE "C" PRIMARY KEY,
    available integer NOT NULL CHECK (available >= 0),
    unit_amount integer NOT NULL CHECK (unit_amount >= 0)
  );
  INSERT INTO stock (sku, available, unit_amount) VALUES
    ('mug', 1000000, 1250), ('shirt', 1000000, 2500), ('poster', 1000000, 900), ('unicorn', 0, 99900)
  ON CONFLICT DO NOTHING;
  CREATE TABLE IF NOT EXISTS checkouts (
    id text COLLATE "C" PRIMARY KEY,
    account text NOT NULL,
    livemode boolean NOT NULL,
    currency text NOT NULL CHECK (length(currency) = 3),
    customer text,
    source text NOT NULL,
    items json NOT NULL,
    total bigint NOT NULL,
    status text NOT NULL CHECK (status IN ('reserved', 'paid', 'declined')),
    charge text CHECK ((status = 'paid') = (charge IS NOT NULL)),
    idempotency_key text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
  );`;

interface StockRow {
  readonly sku: string;
  readonly available: number;
  readonly unit_amount: number;
}

/** Takes the items out of stock and notes for whom; writes nothing where one of them is not to be had. */
export async function reserve(
  tx: Queryable,
  account: Account,
  request: CheckoutRequest,
  idempotencyKey: string,
): Promise<Reservation> {
  const wanted = quantitiesOf(request.items);
  // In one order for everybody: two checkouts of the same items wait for each other and never in a circle.
  const { rows } = await tx.query<StockRow>(
    `SELECT sku, available, unit_amount FROM stock WHERE sku = ANY ($1) ORDER BY sku FOR NO KEY UPDATE`,
    [[...wanted.keys()]],
  );
  const stock = new Map(rows.map((row) => [row.sku, row]));
  const items: CheckoutItem[] = [];
  for (const [item, { sku, quantity }] of request.items.entries()) {
    const found = stock.get(sku);
    if (found === undefined || found.available < (wanted.get(sku) ?? 0))
      return { kind: "out_of_stock", item };
    items.push({ sku, quantity, unit_amount: found.unit_amount });
  }
  await moveStock(tx, wanted, -1);
  const total = items.reduce((sum, item) => sum + item.quantity * item.unit_amount, 0);
  const id = newId("co");
  await tx.query(
    `INSERT INTO checkouts
       (id, account, livemode, currency, customer, source, items, total, status, idempotency_key)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'reserved', $9)`,
    [
      id,
      account.id,
      account.livemode,
      request.currency,
      request.customer ?? null,
      request.source,
      JSON.stringify(items),
      total,
      idempotencyKey,
    ],
  );
  return { kind: "reserved", id, total };
}

/** Notes the charge of a reserved checkout. */
export async function markPaid(tx: Queryable, id: string, charge: string): Promise<Checkout> {
  return settle(tx, id, "paid", charge);
}

/** Gives the items of a reserved checkout back, since they will not be paid. */
export async function giveBack(tx: Queryable, id: string): Promise<void> {
  const { items } = await settle(tx, id, "declined", null);
  await moveStock(tx, quantitiesOf(items), 1);
}

export async function findCheckout(
  db: Queryable,
  account: Account,
  id: string,
): Promise<Checkout | undefined> {
  if (!isId("co", id)) return undefined;
  const result = await db.query<CheckoutRow>(
    `SELECT ${checkoutColumns} FROM checkouts WHERE id = $1 AND account = $2 AND livemode = $3`,
    [id, account.id, account.livemode],
  );
  const [row] = result.rows;
  return row === undefined ? undefined : toCheckout(row);
}

const checkoutColumns = `id, livemode, currency, customer, items, total, status, charge,
  floor(extract(epoch FROM created_at))::bigint AS created`;

interface CheckoutRow {
  readonly id: string;
  readonly livemode: boolean;
  readonly currency: string;
  readonly customer: string | null;
  readonly items: CheckoutItem[];
  readonly total: string;
  readonly status: Checkout["status"];
  readonly charge: string | null;
  readonly created: string;
}

function quantitiesOf(
  items: readonly Pick<CheckoutItem, "sku" | "quantity">[],
): ReadonlyMap<string, number> {
  const quantities = new Map<string, number>();
  for (const { sku, quantity } of items) quantities.set(sku, (quantities.get(sku) ?? 0) + quantity);
  return quantities;
}

async function moveStock(
  tx: Queryable,
  quantities: ReadonlyMap<string, number>,
  sign: 1 | -1,
): Promise<void> {
  // Sorted for the same reason as in `reserve`, where no statement before has locked the rows.
  const skus = [...quantities.keys()].sort();
  for (const sku of skus) {
    await tx.query("UPDATE stock SET available = available + $2 WHERE sku = $1", [
      sku,
      sign * (quantities.get(sku) ?? 0),
    ]);
  }
}

async function settle(
  tx: Queryable,
  id: string,
  status: "paid" | "declined",
  charge: string | null,
): Promise<Checkout> {
  const result = await tx.query<CheckoutRow>(
    `UPDATE checkouts SET status = $2, charge = $3 WHERE id = $1 AND status = 'reserved'
     RETURNING ${checkoutColumns}`,
    [id, status, charge],
  );
  const [row] = result.rows;
  // Steps run once, so that this is a fault of the books and no race.
  if (row === undefined) throw new Error("The checkout is not reserved.");
  return toCheckout(row);
}

function toCheckout(row: CheckoutRow): Checkout {
  return {
    id: row.id,
    object: "checkout",
    charge: row.charge,
    created: Number(row.created),
    currency: row.currency,
    customer: row.customer,
    items: row.items,
    livemode: row.livemode,
    status: row.status,
    total: Number(row.total),
  };
}
