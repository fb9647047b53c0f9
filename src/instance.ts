/**
 * One instance of the middleware, whatever stack it stands in. Owns: putting store, cache, engine and background work together,
 * and ending them. The entries of the adapters are made on it.
 */
import type { StepsHandler, StepsOptions } from "./core/attempt.js";
import { systemClock } from "./core/clock.js";
import { Engine } from "./core/engine.js";
import { IdempotencyError } from "./core/errors.js";
import { resolveOptions, resolveSteps } from "./core/options.js";
import type { IdempotencyOptions, ResolvedOptions, RouteOptions } from "./core/options.js";
import { isCacheable } from "./core/ports.js";
import type { Store } from "./core/ports.js";
import type { StepsRoute } from "./core/steps-run.js";
import type { AdapterContext, InstanceVerbs } from "./http/context.js";
import type { HttpStepsRoute } from "./http/steps.js";
import { createStepsRoute } from "./steps/route.js";
import { createNearCache } from "./stores/near-cache.js";
import { tiered } from "./stores/tiered.js";
import { startBackground } from "./workers/background.js";

/** What an adapter's entry makes its routes of. */
export interface Instance<Request> {
  readonly context: AdapterContext<Request>;
  readonly verbs: InstanceVerbs;
  /** Throws `options_invalid` where the store has no transactions. */
  demandTransactions(): void;
  /** Registers a steps route. Throws `options_invalid` for a name that is taken, and where the store has no steps. */
  addSteps(name: string, route: RouteOptions & StepsOptions, handler: StepsHandler): HttpStepsRoute;
}

const defaultGraceMs = 30_000;

/** @throws `options_invalid` that lists every problem at once. */
export function createInstance<Request>(given: IdempotencyOptions<Request>): Instance<Request> {
  const options = resolveOptions(given);
  const clock = systemClock;
  const store = withTiers(options);
  const engine = new Engine({ ...options, store, clock });
  const stepsRoutes = new Map<string, StepsRoute>();
  const background = options.workers
    ? startBackground({
        store,
        clock,
        onEvent: options.onEvent,
        claimDue: (most) => engine.claimDue(stepsRoutes, most),
      })
    : undefined;
  return {
    context: { engine, clock, options },
    demandTransactions: () =>
      demand(store.transactions !== undefined, `Transaction routes ${needsPostgres}`),
    addSteps: (name, routeOptions, handler) => {
      demand(typeof name === "string" && name !== "", "idempotent.steps needs a name.");
      demand(typeof handler === "function", "idempotent.steps needs a handler (request, steps).");
      demand(!stepsRoutes.has(name), `Two steps routes are called ${name}.`);
      const source = store.steps;
      demand(source !== undefined, `Steps routes ${needsPostgres}`);
      const { route, steps: stepsOptions } = resolveSteps(options.route, routeOptions);
      const input = { name, handler, route, options: stepsOptions, source, clock };
      const stepsRoute = createStepsRoute(input);
      stepsRoutes.set(name, stepsRoute);
      background?.startCompleter();
      return stepsRoute;
    },
    verbs: {
      find: (ref) => store.find(ref),
      operations: store.operations,
      check: () => store.check(),
      close: async ({ graceMs = defaultGraceMs } = {}) => {
        const stopped = background?.stop();
        await engine.close(graceMs);
        await stopped;
      },
    },
  };
}

const needsPostgres = "need a store such as postgresStore({ pool }).";

/** @throws `options_invalid` with this detail unless the condition holds. */
export function demand(condition: boolean, detail: string): asserts condition {
  if (!condition) throw new IdempotencyError("options_invalid", { detail });
}

/** Puts what makes replays cheap in front of the store. A store in memory needs none. */
function withTiers(options: Pick<ResolvedOptions<never>, "store" | "cache" | "nearCache">): Store {
  const { store, cache, nearCache } = options;
  const clock = systemClock;
  if (cache === undefined && nearCache === undefined) return store;
  if (isCacheable(store)) {
    const near = nearCache && createNearCache({ ...nearCache, clock });
    return tiered(store, { cache, near, clock });
  }
  demand(cache === undefined, "cache: this store cannot have a cache in front of it.");
  return store;
}
