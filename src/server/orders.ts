/**
 * The routes of orders. Owns: placing an order, a plain idempotent route: its row is written on a connection of its own and
 * not together with the key, as in an API whose work lies outside of this database.
 */
import type { Pool } from "pg";
import type { RequestHandler } from "express";
import { accountOf } from "./auth.js";
import { isForm } from "./bodies.js";
import type { Dialect } from "./config.js";
import { parseOrRefuse } from "./fields.js";
import { findOrder, insertOrder } from "./ledger.js";
import { orderFormShape, orderShape } from "./order-request.js";
import type { OrderRequest } from "./order-request.js";
import { beSlow } from "./slowness.js";
import { ApiError } from "./wire.js";

/** Reads the order that is asked for; in front of the idempotency middleware, as for charges. */
export const readOrderRequest: RequestHandler = (req, res, next) => {
  res.locals["order"] = parseOrRefuse(isForm(req) ? orderFormShape : orderShape, req.body);
  next();
};

export function createOrder(pool: Pool, dialect: Dialect): RequestHandler {
  return async (req, res) => {
    const request = res.locals["order"] as OrderRequest;
    const order = await insertOrder(pool, accountOf(req), request, req.idempotency?.key);
    // After the work and before the answer: whoever kills the server here leaves an outcome that nobody knows.
    await beSlow(request.customer);
    res.setHeader("Location", `/v1/orders/${order.id}`);
    res.status(dialect === "stripe" ? 200 : 201).json(order);
  };
}

export function getOrder(pool: Pool): RequestHandler<{ id: string }> {
  return async (req, res) => {
    const order = await findOrder(pool, accountOf(req), req.params.id);
    if (order === undefined) throw new ApiError("not_found", "There is no such order.");
    res.json(order);
  };
}
