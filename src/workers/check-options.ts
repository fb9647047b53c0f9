/** The validation of options of workers and destinations, which reports every problem at once. */
import type { z } from "zod";
import { IdempotencyError } from "../core/errors.js";

/** @throws `options_invalid` that lists every problem: wrong values, unknown names and broken relations. */
export function checkOptions(
  where: string,
  shape: z.ZodType,
  given: unknown,
  relations: readonly string[] = [],
): void {
  const result = shape.safeParse(given);
  const issues = result.success ? [] : result.error.issues;
  const problems = issues.flatMap((issue) =>
    issue.code === "unrecognized_keys"
      ? issue.keys.map((name) => `${name}: is not an option`)
      : [`${issue.path.join(".") || "options"}: ${issue.message}`],
  );
  if (problems.length + relations.length === 0) return;
  throw new IdempotencyError("options_invalid", {
    detail: `Options of ${where}: ${[...problems, ...relations].join("; ")}.`,
  });
}
