/**
 * What a client may ask of charges. Owns: the fields, their limits and their defaults. openapi.yaml says the same.
 */
import { z } from "zod";
import { currencyShape, fromForm, integerOf, textOf } from "./fields.js";

/** In minor units; eight digits, as Stripe's. */
const maxAmount = 99_999_999;
const maxMetadata = 50;

const metadataShape = z
  .record(textOf(40), textOf(500), "must be an object of strings")
  .refine(
    (metadata) => Object.keys(metadata).length <= maxMetadata,
    `must have at most ${maxMetadata} entries`,
  );

const fields = {
  currency: currencyShape,
  source: textOf(255),
  description: textOf(1_000).optional(),
  metadata: metadataShape.default({}),
};
const amount = integerOf(1, maxAmount);

/** A charge as JSON asks for it. */
export const chargeShape = z.strictObject(
  { amount, ...fields },
  { error: "must be a JSON object or a form" },
);
/** A charge as a form asks for it: numbers arrive as text. */
export const chargeFormShape = z.strictObject({
  amount: z.preprocess(fromForm, amount),
  ...fields,
});

export type ChargeRequest = z.infer<typeof chargeShape>;

/** The query of a list. */
export const listShape = z.strictObject({
  limit: z.preprocess(fromForm, integerOf(1, 100)).default(10),
  starting_after: textOf(64).optional(),
});
