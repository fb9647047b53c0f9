/**
 * What a client may ask of checkouts. Owns: the fields and their limits. openapi.yaml says the same. Prices are the shop's and
 * never the client's.
 */
import { z } from "zod";
import { currencyShape, fromForm, integerOf, textOf } from "./fields.js";

/** With the limits of quantity and price, the total of a checkout stays an exact integer. */
const maxItems = 100;

function shapeWith(read: (value: unknown) => unknown) {
  const item = z.strictObject(
    { sku: textOf(100), quantity: z.preprocess(read, integerOf(1, 10_000)) },
    { error: "must be an object with sku and quantity" },
  );
  return z.strictObject(
    {
      items: z
        .array(item, "must be an array of items")
        .min(1, "must not be empty")
        .max(maxItems, `must have at most ${maxItems} items`),
      currency: currencyShape,
      source: textOf(255),
      customer: textOf(255).optional(),
    },
    { error: "must be a JSON object or a form" },
  );
}

/** A checkout as JSON asks for it. */
export const checkoutShape = shapeWith((value) => value);
/** A checkout as a form asks for it: numbers arrive as text. */
export const checkoutFormShape = shapeWith(fromForm);

export type CheckoutRequest = z.infer<typeof checkoutShape>;
