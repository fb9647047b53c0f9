/**
 * What a client may ask of orders. Owns: the fields and their limits. openapi.yaml says the same.
 */
import { z } from "zod";
import { currencyShape, fromForm, integerOf, textOf } from "./fields.js";

/** With the limits of quantity and unit amount, the total of an order stays an exact integer. */
const maxItems = 100;

function shapeWith(read: (value: unknown) => unknown) {
  const item = z.strictObject(
    {
      sku: textOf(100),
      quantity: z.preprocess(read, integerOf(1, 10_000)),
      unit_amount: z.preprocess(read, integerOf(0, 99_999_999)),
    },
    { error: "must be an object with sku, quantity and unit_amount" },
  );
  return z.strictObject(
    {
      items: z
        .array(item, "must be an array of items")
        .min(1, "must not be empty")
        .max(maxItems, `must have at most ${maxItems} items`),
      currency: currencyShape,
      customer: textOf(255).optional(),
    },
    { error: "must be a JSON object or a form" },
  );
}

/** An order as JSON asks for it. */
export const orderShape = shapeWith((value) => value);
/** An order as a form asks for it: numbers arrive as text. */
export const orderFormShape = shapeWith(fromForm);

export type OrderRequest = z.infer<typeof orderShape>;
export type OrderItem = OrderRequest["items"][number];
