/** The validation of options that sources share, which reports every problem at once. */
import { z } from "zod";
import { IdempotencyError } from "../core/errors.js";
import type { Clock } from "../core/clock.js";

/** setTimeout's largest delay; a longer one would fire at once. */
const longestTimerMs = 2 ** 31 - 1;
const callback = z.custom((value) => typeof value === "function", { error: "must be a function" });

const shared = {
  name: z.string().min(1).max(255),
  pool: z.custom(
    (value) => typeof (value as { connect?: unknown } | null | undefined)?.connect === "function",
    { error: "must be a pool of pg" },
  ),
  schema: z.string().optional(),
  sink: callback,
  decode: callback,
  onPoison: callback.optional(),
  batchMs: z.number().int().min(1).max(longestTimerMs).optional(),
  clock: z.custom<Clock>().optional(),
};

/** @throws `options_invalid` that lists every problem. */
export function checkSource(where: string, own: z.ZodObject, given: unknown): void {
  const result = own.extend(shared).safeParse(given);
  if (result.success) return;
  const problems = result.error.issues.flatMap((issue) =>
    issue.code === "unrecognized_keys"
      ? issue.keys.map((key) => `${key}: is not an option`)
      : [`${issue.path.join(".") || "options"}: ${issue.message}`],
  );
  throw new IdempotencyError("options_invalid", {
    detail: `Options of ${where}: ${problems.join("; ")}.`,
  });
}
