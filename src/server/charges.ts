/**
 * The routes of charges. Owns: making a charge in one transaction with its key and its response, and reading charges.
 */
import type { Pool, PoolClient } from "pg";
import type { Request, RequestHandler, Response } from "express";
import { accountOf } from "./auth.js";
import { isForm } from "./bodies.js";
import { chargeFormShape, chargeShape, listShape } from "./charge-request.js";
import type { ChargeRequest } from "./charge-request.js";
import type { Dialect } from "./config.js";
import { parseOrRefuse } from "./fields.js";
import { findCharge, insertCharge, listCharges } from "./ledger.js";
import { beSlow } from "./slowness.js";
import { ApiError, sendApiError } from "./wire.js";

/** Stripe's test source that every charge is refused for. */
const declinedSource = "tok_chargeDeclined";

/**
 * Reads the charge that is asked for. In front of the idempotency middleware: a request that was refused for its fields
 * never takes the key, and can be mended and sent again with it.
 */
export const readChargeRequest: RequestHandler = (req, res, next) => {
  res.locals["charge"] = parseOrRefuse(isForm(req) ? chargeFormShape : chargeShape, req.body);
  next();
};

/** The handler of `POST /v1/charges`, for `idempotent.transaction`. */
export function createCharge(dialect: Dialect) {
  return async (req: Request, res: Response, tx: PoolClient): Promise<void> => {
    const request = res.locals["charge"] as ChargeRequest;
    if (request.source === declinedSource) {
      // Answered and not thrown: a decline is the definitive answer for this key, and is stored and replayed.
      const declined = new ApiError("card_declined", "Your card was declined.", {
        stripe: { decline_code: "generic_decline" },
      });
      sendApiError(res, dialect, declined);
      return;
    }
    const charge = await insertCharge(tx, accountOf(req), request, req.idempotency?.key);
    // Between the row and the commit: whoever kills the server here finds neither a charge nor a taken key.
    await beSlow(request.source);
    res.setHeader("Location", `/v1/charges/${charge.id}`);
    res.status(dialect === "stripe" ? 200 : 201).json(charge);
  };
}

export function getCharge(pool: Pool): RequestHandler<{ id: string }> {
  return async (req, res) => {
    const charge = await findCharge(pool, accountOf(req), req.params.id);
    if (charge === undefined) throw new ApiError("not_found", "There is no such charge.");
    res.json(charge);
  };
}

/** A page of the caller's charges in the form that Stripe's SDKs turn over by themselves. */
export function getCharges(pool: Pool): RequestHandler {
  return async (req, res) => {
    const query = parseOrRefuse(listShape, req.query);
    const page = { limit: query.limit, startingAfter: query.starting_after };
    const found = await listCharges(pool, accountOf(req), page);
    if (found === "unknown_start") {
      const errors = [{ field: "starting_after", message: "names no charge of this account" }];
      const detail = "starting_after names no charge of this account.";
      throw new ApiError("invalid_request", detail, { errors });
    }
    res.json({
      object: "list",
      url: "/v1/charges",
      has_more: found.hasMore,
      data: found.charges,
    });
  };
}
