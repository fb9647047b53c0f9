/**
 * Stops asking what does not answer. Owns: when a circuit opens, and who may find out whether it can be closed again.
 * Must never read a clock or wait by itself: it is told the time and the outcomes.
 */

/** `closed`: work goes through. `open`: none does. `half_open`: one probe is under way. */
export type CircuitState = "closed" | "open" | "half_open";

export interface CircuitBreakerOptions {
  /** Failures in a row that open the circuit. */
  readonly failuresToOpen: number;
  /** How long an open circuit stays so before a probe. */
  readonly pauseMs: number;
  readonly monotonicMs: () => number;
}

/** Leave for one piece of work. Its outcome counts only while the circuit is still as it was when the leave was given. */
export interface Pass {
  readonly period: number;
  /** True for the one piece of work that decides whether an open circuit is closed. */
  readonly probe: boolean;
}

export interface CircuitBreaker {
  state(): CircuitState;
  /** Leave to work, or undefined: do without. Whoever gets a pass must report its outcome. */
  enter(): Pass | undefined;
  /** Reports the outcome of a piece of work. */
  report(pass: Pass, outcome: "ok" | "failed"): void;
}

export function createCircuitBreaker(options: CircuitBreakerOptions): CircuitBreaker {
  let state: CircuitState = "closed";
  let failures = 0;
  let openedAtMs = 0;
  // Many pieces of work are under way when the circuit opens. What they report later says nothing of the present.
  let period = 0;

  const change = (next: CircuitState): void => {
    state = next;
    failures = 0;
    period += 1;
    if (next === "open") openedAtMs = options.monotonicMs();
  };

  return {
    state: () => state,
    enter: () => {
      if (state === "closed") return { period, probe: false };
      if (state === "half_open" || options.monotonicMs() - openedAtMs < options.pauseMs)
        return undefined;
      change("half_open");
      return { period, probe: true };
    },
    report: (pass, outcome) => {
      if (pass.period !== period) return;
      if (pass.probe) change(outcome === "ok" ? "closed" : "open");
      else if (outcome === "ok") failures = 0;
      else if ((failures += 1) >= options.failuresToOpen) change("open");
    },
  };
}
