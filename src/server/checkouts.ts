/**
 * The routes of checkouts. Owns: the steps from reserved stock by way of the payment provider to a receipt, a steps route that
 * goes on at its last step after a crash, with or without its client.
 */
import type { Pool, PoolClient } from "pg";
import type { RequestHandler } from "express";
import type { CallContext, CallOptions, Steps, StepsReply, StepsRequest } from "../index.js";
import { accountOf, accountOfScope } from "./auth.js";
import { isForm } from "./bodies.js";
import { findCheckout, giveBack, markPaid, reserve } from "./checkout-ledger.js";
import { checkoutFormShape, checkoutShape } from "./checkout-request.js";
import type { CheckoutRequest } from "./checkout-request.js";
import type { Dialect } from "./config.js";
import { parseOrRefuse } from "./fields.js";
import type { ProviderAnswer, ProviderClient } from "./provider-client.js";
import { ApiError, renderApiError } from "./wire.js";

/** What checkouts know of the payment provider. */
export interface PaymentTerms {
  readonly provider: ProviderClient;
  /** False: the provider charges again for every call, whatever its key. */
  readonly honoursKeys: boolean;
  /** Whether charges can be looked up by their key. */
  readonly offersLookup: boolean;
}

/** Reads the checkout that is asked for; in front of the idempotency middleware, as for charges. */
export const readCheckoutRequest: RequestHandler = (req, _res, next) => {
  parseOrRefuse(isForm(req) ? checkoutFormShape : checkoutShape, req.body);
  next();
};

/** The header that the handler needs to read the stored body in the way it was read when it came. */
export const keptHeaders = ["content-type"];

/** The handler of `POST /v1/checkouts`, for `idempotent.steps`. */
export function createCheckout(terms: PaymentTerms, dialect: Dialect) {
  return async (request: StepsRequest, steps: Steps<PoolClient>): Promise<StepsReply> => {
    const wanted = readStored(request);
    const refuse = (error: ApiError): Error => steps.fail(renderApiError(dialect, error));

    const reserved = await steps.transaction("reserve", async (tx) => {
      const found = await reserve(tx, accountOfScope(request.scope), wanted, request.key);
      if (found.kind === "out_of_stock") throw refuse(outOfStock(found.item));
      return { id: found.id, total: found.total };
    });

    const order = {
      amount: reserved.total,
      currency: wanted.currency,
      source: wanted.source,
      reference: reserved.id,
    };
    const answer = await steps.call(
      "charge",
      (call) => terms.provider.charge(order, call),
      callOptions(terms),
    );
    if (answer.kind === "declined") {
      await steps.transaction("give back", (tx) => giveBack(tx, reserved.id));
      throw refuse(new ApiError("card_declined", "Your card was declined.", declined));
    }

    const checkout = await steps.transaction("paid", (tx) => markPaid(tx, reserved.id, answer.id));
    const { id, charge, currency, customer, total } = checkout;
    await steps.send("receipt", { checkout: id, charge, currency, customer, total });
    return {
      status: dialect === "stripe" ? 200 : 201,
      headers: { Location: `/v1/checkouts/${id}` },
      body: checkout,
    };
  };
}

export function getCheckout(pool: Pool): RequestHandler<{ id: string }> {
  return async (req, res) => {
    const checkout = await findCheckout(pool, accountOf(req), req.params.id);
    if (checkout === undefined) throw new ApiError("not_found", "There is no such checkout.");
    res.json(checkout);
  };
}

const declined = { stripe: { decline_code: "generic_decline" } };

/** As it passed validation when it came; a stored request is not asked again whether it is valid. */
function readStored({ headers, body }: StepsRequest): CheckoutRequest {
  const wasForm = headers["content-type"]?.startsWith("application/x-www-form-urlencoded");
  return parseOrRefuse(wasForm === true ? checkoutFormShape : checkoutShape, body);
}

function outOfStock(item: number): ApiError {
  return new ApiError("out_of_stock", `There is not enough in stock of items[${item}].`);
}

function callOptions({
  provider,
  honoursKeys,
  offersLookup,
}: PaymentTerms): CallOptions<ProviderAnswer> {
  if (honoursKeys) return { repeatable: true };
  if (!offersLookup) return { repeatable: false };
  return {
    repeatable: false,
    reconcile: async (call: CallContext) => {
      const found = await provider.find(call);
      // None by now is no proof that there will be none: the call may still be under way, from a process that stands still.
      return found === undefined ? { kind: "unknown" } : { kind: "happened", result: found };
    },
  };
}
