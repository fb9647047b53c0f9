/**
 * The routes of daily revenue. Owns: that a figure which is read holds every event stored before, and that days are computed anew on
 * demand. Sees the caller's own merchants and nobody else's.
 */
import type { RequestHandler } from "express";
import type { Pool } from "pg";
import { z } from "zod";
import { accountOf } from "./auth.js";
import type { EventBooks } from "./events.js";
import { ownerKey, rangeOf, readRevenue, setTimeZone } from "./event-ledger.js";
import { parseOrRefuse, textOf } from "./fields.js";
import { ApiError } from "./wire.js";

/** A year and a day, so that two equal dates can be compared. */
const maxDays = 366;
const dayMs = 86_400_000;

const dateShape = z
  .string("must be a date such as 2026-01-31")
  .regex(/^(?!0000)\d{4}-\d\d-\d\d$/, "must be a date such as 2026-01-31")
  .refine(isDay, "must be a day that exists");

export const revenueShape = z
  .strictObject({ from: dateShape.optional(), to: dateShape.optional() })
  .superRefine(checkRange);

const merchantId = textOf(64);

export const recomputeShape = z
  .strictObject({ merchant_id: merchantId.optional(), from: dateShape, to: dateShape })
  .superRefine(checkRange);

export const merchantShape = z.strictObject({ time_zone: textOf(64) });

/** 31 February becomes a day in March, or none at all. */
function isDay(text: string): boolean {
  const ms = Date.parse(`${text}T00:00:00Z`);
  return !Number.isNaN(ms) && new Date(ms).toISOString().startsWith(text);
}

function checkRange(
  { from, to }: { from?: string | undefined; to?: string | undefined },
  context: z.RefinementCtx,
): void {
  if (from === undefined || to === undefined) return;
  const days = (Date.parse(to) - Date.parse(from)) / dayMs + 1;
  // What is no date was told already.
  if (days >= 1 && days <= maxDays) return;
  const message = days < 1 ? "must not be before from" : `must be within ${maxDays} days of from`;
  if (!Number.isNaN(days)) context.addIssue({ code: "custom", path: ["to"], message });
}

/** A page of days. Marked ones are computed first, so that whoever has stored an event finds it in the sum. */
export function getRevenue(
  pool: Pool,
  { revenue }: Pick<EventBooks, "revenue">,
): RequestHandler<{ merchant_id: string }> {
  return async (req, res) => {
    const account = accountOf(req);
    const id = merchantOf(req.params.merchant_id);
    const { from, to } = parseOrRefuse(revenueShape, req.query);
    const range = await rangeOf(pool, account, id, { from, to });
    const where = ownerKey(account, id);
    await revenue.recompute(await revenue.marked({ ...range, where }));
    const days = await readRevenue(pool, account, id, range);
    const head = {
      object: "revenue",
      merchant_id: id,
      time_zone: range.timeZone,
      from: range.from,
      to: range.to,
    };
    // The days are a JSON text, whose sums no double has seen.
    res.setHeader("Content-Type", "application/json");
    res.end(`${JSON.stringify(head).slice(0, -1)},"days":${days}}`);
  };
}

/** Reads what is to be computed; in front of the idempotency middleware, as for charges. */
export const readRecomputeRequest: RequestHandler = (req, res, next) => {
  res.locals["recompute"] = parseOrRefuse(recomputeShape, req.body);
  next();
};

/** Computes days anew, marked or not: for a fault in the past. Again is harmless. */
export function recomputeRevenue({ revenue }: Pick<EventBooks, "revenue">): RequestHandler {
  return async (req, res) => {
    const request = res.locals["recompute"] as z.infer<typeof recomputeShape>;
    const { merchant_id: merchant, from, to } = request;
    const where = ownerKey(accountOf(req), merchant);
    const { keys, written, removed } = await revenue.backfill({ from, to, where });
    res.json({
      object: "revenue_recompute",
      merchant_id: merchant ?? null,
      from,
      to,
      computed: keys,
      changed: written + removed,
    });
  };
}

/** Sets the zone in which a merchant's days begin; all its days are computed anew. The same again changes nothing. */
export function putMerchant(
  pool: Pool,
  { revenue, wake }: Pick<EventBooks, "revenue" | "wake">,
): RequestHandler<{ merchant_id: string }> {
  return async (req, res) => {
    const id = merchantOf(req.params.merchant_id);
    const { time_zone: zone } = parseOrRefuse(merchantShape, req.body);
    if ((await setTimeZone(pool, revenue, accountOf(req), id, zone)) === "unknown_zone") {
      const message = "must be a time zone such as Europe/Berlin";
      throw new ApiError("invalid_request", `time_zone ${message}.`, {
        errors: [{ field: "time_zone", message }],
      });
    }
    wake();
    res.json({ object: "merchant", id, time_zone: zone });
  };
}

function merchantOf(text: string): string {
  return parseOrRefuse(z.strictObject({ merchant_id: merchantId }), { merchant_id: text })
    .merchant_id;
}
