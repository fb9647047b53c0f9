/**
 * Runs one suite: all contenders up at once, measured in turns, round after round, so that a machine whose speed drifts
 * is as slow for one as for the other. Ratios are taken within a round.
 */
import { cpuOf, startContender, startLoad } from "./processes.js";
import type { ContenderProcess, LoadProcess } from "./processes.js";
import type { LoadOrder, LoadResult } from "./load.js";
import type { Entrant, Suite } from "./suites.js";

export interface Round {
  readonly load: LoadResult;
  /** CPU microseconds a request: of the contender, of Postgres, of Redis, of the load generator. */
  readonly cpu: {
    readonly app: number;
    readonly postgres: number;
    readonly redis: number;
    readonly load: number;
  };
  /** Requests a second, divided by those of the suite's first entrant in the same round. */
  readonly ratio: number;
}

export interface Row {
  readonly label: string;
  readonly contender: string;
  readonly rounds: readonly Round[];
}

export interface Ground {
  readonly databaseUrl: string;
  readonly redisUrl: string;
  readonly postgresPid: number;
  readonly redisPid: number;
  readonly rounds: number;
  readonly seconds: number;
  readonly runId: string;
}

interface Running extends Entrant {
  readonly process: ContenderProcess;
  readonly prefix: string;
  readonly measured: Omit<Round, "ratio">[];
}

export async function measure(suite: Suite, ground: Ground): Promise<Row[]> {
  const load = await startLoad();
  const running: Running[] = [];
  const env = { DATABASE_URL: ground.databaseUrl, REDIS_URL: ground.redisUrl };
  try {
    for (const entrant of suite.entrants) {
      const prefix = `${ground.runId}-${suite.name}-${running.length}`;
      const process = await startContender(entrant.contender, env);
      running.push({ ...entrant, process, prefix, measured: [] });
    }
    for (const entrant of running) await warm(entrant, suite, load);
    for (let round = 0; round < ground.rounds; round += 1) {
      for (const entrant of running)
        entrant.measured.push(await once(entrant, suite, ground, load, `${round}`));
    }
  } finally {
    await Promise.all([load.end(), ...running.map((entrant) => entrant.process.end())]);
  }
  const base = running[0]?.measured ?? [];
  return running.map(({ label, contender, measured }) => ({
    label: label ?? contender,
    contender,
    rounds: measured.map((round, index) => ({
      ...round,
      ratio: round.load.perSecond / (base[index]?.load.perSecond ?? Number.NaN),
    })),
  }));
}

async function warm(entrant: Running, suite: Suite, load: LoadProcess): Promise<void> {
  const { rate: _closed, ...order } = orderFor(entrant, suite, 1, "warm");
  // Replays need something to replay.
  if (typeof entrant.keys === "object") await load.store(order, entrant.keys.replay);
  await load.warm(order, (result) => expectAnswers(result, entrant));
}

async function once(
  entrant: Running,
  suite: Suite,
  ground: Ground,
  load: LoadProcess,
  round: string,
): Promise<Omit<Round, "ratio">> {
  const usedBefore = await entrant.process.usage();
  const postgresBefore = cpuOf(ground.postgresPid);
  const redisBefore = cpuOf(ground.redisPid);
  const result = await load.run(orderFor(entrant, suite, ground.seconds, round));
  expectAnswers(result, entrant);
  const each = (seconds: number): number => (seconds * 1e6) / result.requests;
  return {
    load: result,
    cpu: {
      app: each((await entrant.process.usage()).cpu - usedBefore.cpu),
      postgres: each(cpuOf(ground.postgresPid) - postgresBefore),
      redis: each(cpuOf(ground.redisPid) - redisBefore),
      load: each(result.cpu),
    },
  };
}

function orderFor(entrant: Running, suite: Suite, seconds: number, round: string): LoadOrder {
  // Replays ask for the same keys in every round.
  const prefix = typeof entrant.keys === "object" ? entrant.prefix : `${entrant.prefix}-${round}`;
  return {
    port: entrant.process.port,
    path: "/charges",
    connections: suite.connections,
    seconds,
    ...(suite.rate === undefined ? {} : { rate: suite.rate }),
    keys: entrant.keys,
    prefix,
  };
}

/** A contender that answers with errors, or runs where it should replay, is not measured by mistake. */
function expectAnswers(result: LoadResult, entrant: Running): void {
  const statuses = Object.keys(result.statuses).join(", ");
  if (statuses !== "201") throw new Error(`${entrant.contender} answered ${statuses}`);
  const isOurs = entrant.contender.startsWith("oncekey");
  if (isOurs && typeof entrant.keys === "object" && result.replays !== result.requests)
    throw new Error(`${entrant.contender} ran a handler in place of a replay`);
}
