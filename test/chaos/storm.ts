/**
 * Everything at once: clients that retry, two servers behind lines that break, one of them killed again and again, Redis
 * losing its memory. What is seen of every key is held against the promises of DESIGN, section 2, at the end.
 *
 * The seed decides which fault comes next and which client asks whom. Processes and sockets keep their own time, so a seed
 * repeats a storm in its kind and not to the letter.
 */
import { Redis } from "ioredis";
import type pg from "pg";

import { type ServerProcess, startServer } from "../support/server-process.js";
import { seededRandom, startTcpProxy, type TcpProxy } from "../support/tcp-proxy.js";
import { outcome, post } from "../faults/client.js";
import { complaints, note, startTraffic, type Story } from "../faults/traffic.js";

export type StormOptions = {
  readonly seconds: number;
  readonly seed: number;
  readonly databaseUrl: string;
  /** Goes straight to Postgres. */
  readonly pool: pg.Pool;
  /** Flushed now and then, so nobody else may use it. */
  readonly redisUrl: string;
  readonly clients?: number;
  /** Moves the clock of leases ahead, so that what a crash left behind is judged without waiting for it. */
  readonly moveClock: (aheadMs: number) => Promise<void>;
};

export type StormReport = {
  readonly keys: number;
  readonly faults: Readonly<Record<string, number>>;
  /** How the keys ended, by route and last answer. */
  readonly ends: Readonly<Record<string, number>>;
  /** Promises that were broken; empty in a good storm. */
  readonly complaints: readonly string[];
};

const order = { currency: "eur", items: [{ sku: "mug", quantity: 1, unit_amount: 900 }] };
const charge = { amount: 2000, currency: "eur" };
const routes = [
  { path: "/v1/charges", body: { ...charge, source: "tok_visa" } },
  { path: "/v1/orders", body: order },
  { path: "/v1/charges", body: { ...charge, source: "tok_slow_20" } },
  { path: "/v1/orders", body: { ...order, customer: "slow_20" } },
];

/** Of the lines between clients and servers, for each request. */
const lineFaults = { cutRequest: 0.02, dropReply: 0.04 };
/** A fault of Postgres' lines, of Redis or of a process comes after so many keys. */
const keysBetweenFaults = 6;
/** A client that meets a dead server's order gives up on it; the end of the storm asks for it again. */
const patienceMs = 1_500;
/** Longer than the lease of the servers. */
const pastLeaseMs = 60_000;

/** One server, the line its clients use, and the line it uses to Postgres. */
type Node = { server: ServerProcess; readonly front: TcpProxy; readonly back: TcpProxy };

export async function storm(options: StormOptions): Promise<StormReport> {
  const random = seededRandom(options.seed);
  const faults: Record<string, number> = {};
  const redis = new Redis(options.redisUrl);
  redis.on("error", () => undefined);
  const nodes: Node[] = [];
  try {
    nodes.push(await startNode(options, random), await startNode(options, random));
    const traffic = startTraffic({
      clients: options.clients ?? 6,
      routes,
      urls: () => nodes.map(({ front }) => `http://127.0.0.1:${front.port}`),
      random,
      patienceMs,
    });
    const deadline = performance.now() + options.seconds * 1_000;
    while (performance.now() < deadline) {
      const fault = pick(random);
      faults[fault] = (faults[fault] ?? 0) + 1;
      await inflict(fault, nodes[Math.floor(random() * nodes.length)]!, options, redis);
      await traffic.progress(keysBetweenFaults);
    }
    const stories = await traffic.finish();
    return { keys: stories.length, faults, ...(await reckon(stories, nodes, options)) };
  } finally {
    redis.disconnect();
    for (const { server, front, back } of nodes) {
      await server.kill();
      await front.close();
      await back.close();
    }
  }
}

const kinds = [
  "lose the reply to COMMIT",
  "lose COMMIT",
  "lose the reply to a claim",
  "lose the reply to complete",
  "lose complete",
  "cut Postgres off",
  "flush Redis",
  "kill -9",
] as const;
type Fault = (typeof kinds)[number];

function pick(random: () => number): Fault {
  return kinds[Math.floor(random() * kinds.length)]!;
}

async function inflict(fault: Fault, node: Node, options: StormOptions, redis: Redis) {
  switch (fault) {
    case "lose the reply to COMMIT":
      return void node.back.cutAt(/COMMIT\0/);
    case "lose COMMIT":
      return void node.back.cutAt(/COMMIT\0/, { forward: false });
    case "lose the reply to a claim":
      return void node.back.cutAt(/oncekey_(tx-)?claim\0/);
    case "lose the reply to complete":
      return void node.back.cutAt(/oncekey_complete\0/);
    case "lose complete":
      return void node.back.cutAt(/oncekey_complete\0/, { forward: false });
    case "cut Postgres off":
      return node.back.cutAll();
    case "flush Redis":
      await redis.flushall();
      return;
    case "kill -9": {
      const { port } = node.server;
      await node.server.kill();
      node.server = await restart(options, node.back, port);
      return;
    }
    default:
      fault satisfies never;
  }
}

async function startNode(options: StormOptions, random: () => number): Promise<Node> {
  const back = await startTcpProxy({ target: options.databaseUrl });
  const server = await restart(options, back);
  const front = await startTcpProxy({ target: server.port, faults: { ...lineFaults, random } });
  return { server, front, back };
}

/** A fault that was set for the process before may meet this one while it starts; a supervisor would try again too. */
async function restart(
  options: StormOptions,
  back: TcpProxy,
  port?: number,
): Promise<ServerProcess> {
  const env = {
    DATABASE_URL: back.via(options.databaseUrl),
    REDIS_URL: options.redisUrl,
    LOG_LEVEL: "silent",
    ...(port === undefined ? {} : { PORT: String(port) }),
  };
  for (let tries = 1; ; tries += 1) {
    try {
      return await startServer({ env });
    } catch (error) {
      if (tries === 5) throw error;
    }
  }
}

/** After the storm: what was left open is asked for once more, past every lease, and everything is added up. */
async function reckon(
  stories: readonly Story[],
  nodes: readonly Node[],
  { pool, moveClock }: StormOptions,
): Promise<Pick<StormReport, "ends" | "complaints">> {
  await moveClock(pastLeaseMs);
  const found: string[] = [];
  const ends: Record<string, number> = {};
  for (const story of stories) {
    // On both servers, and past the lines.
    for (const { server } of nodes) {
      let answer = await post(server.url, story.path, story);
      // Nobody else asks any more, so that "later" may not last.
      for (let tries = 0; note(story, answer) === "later" && tries < 50; tries += 1)
        answer = await post(server.url, story.path, story);
      const end = `${story.path} ${outcome(answer).join(" ")}`;
      ends[end] = (ends[end] ?? 0) + 1;
      const isFinal = story.stored.size === 1 || answer.code === "outcome_unknown";
      if (!isFinal)
        found.push(`${story.path} ${story.key}: ends with ${outcome(answer).join(" ")}`);
      if (answer.code === "outcome_unknown" && story.stored.size > 0)
        found.push(`${story.path} ${story.key}: was stored, and is unknown now`);
    }
  }
  const { rows } = await pool.query<{ key: string; count: number }>(
    `SELECT idempotency_key AS key, count(*)::int AS count
       FROM (SELECT idempotency_key FROM charges UNION ALL SELECT idempotency_key FROM orders) made
      GROUP BY idempotency_key`,
  );
  const effects = new Map(rows.map(({ key, count }) => [key, count]));
  for (const story of stories) found.push(...complaints(story, effects.get(story.key) ?? 0));
  return { ends, complaints: found };
}
