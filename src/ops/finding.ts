/**
 * What a check has found, in words for people. `problem`: a promise does not hold, or the library does not work here.
 * `warning`: it costs speed, or needs a decision that somebody should have made.
 */
export interface Finding {
  readonly area: "postgres" | "schema" | "pooler" | "redis";
  readonly name: string;
  readonly level: "ok" | "warning" | "problem";
  /** What was seen. */
  readonly seen: string;
  /** What it means and what to do, where it is not ok. */
  readonly advice?: string;
}

type Level = "warning" | "problem";

export function ok(area: Finding["area"], name: string, seen: string): Finding {
  return { area, name, level: "ok", seen };
}

/** A finding that is ok unless the condition holds. */
export function unless(
  area: Finding["area"],
  name: string,
  seen: string,
  otherwise: { readonly when: boolean; readonly level: Level; readonly advice: string },
): Finding {
  if (!otherwise.when) return ok(area, name, seen);
  return { area, name, seen, level: otherwise.level, advice: otherwise.advice };
}

export function problem(
  area: Finding["area"],
  name: string,
  seen: string,
  advice: string,
): Finding {
  return { area, name, level: "problem", seen, advice };
}

/** The words of an error; several where Node wraps what each address of a name said. */
export function wordsOf(error: unknown): string {
  if (error instanceof AggregateError && error.errors.length > 0)
    return error.errors.map(wordsOf).join("; ");
  return error instanceof Error ? error.message : String(error);
}
