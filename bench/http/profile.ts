/**
 * `npm run bench:profile -- CONTENDER [first|replay|bare] [seconds]`: where the CPU time of a contender goes, and then what it
 * allocates. Prints microseconds and bytes a request: by file or package, by function, and by function with what it calls. Writes the
 * flame graph of the time to docs/images/flame-CONTENDER-KIND.svg.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { flamePlot, type Flame } from "../figures/svg.js";
import { startPostgres } from "../../test/support/postgres-server.js";
import { endEverything } from "../../test/support/processes.js";
import { startRedis } from "../../test/support/redis-server.js";
import type { LoadOrder } from "./load.js";
import { prepare } from "./places.js";
import { startContender, startLoad } from "./processes.js";
import type { ContenderProcess, LoadProcess } from "./processes.js";

interface Frame {
  readonly functionName: string;
  readonly url: string;
  readonly lineNumber: number;
}

/** A function in one place of the call tree, with what belongs to it alone. */
interface CallTree {
  readonly callFrame: Frame;
  readonly own: number;
  readonly children: readonly CallTree[];
}

const replayedKeys = 2_000;

/** Requests a second; absent: as many as there can be. */
const rate = process.env["BENCH_RATE"];

function orderOf(kind: string, port: number, seconds: number): LoadOrder {
  return {
    port,
    path: "/charges",
    connections: 50,
    seconds,
    keys: kind === "replay" ? { replay: replayedKeys } : kind === "bare" ? "bare" : "first",
    prefix: `p${process.pid}`,
    ...(rate === undefined ? {} : { rate: Number(rate) }),
  };
}

/** Runs the load while V8 samples; the samples, and the requests that they are of. */
async function sample(
  what: "profile" | "allocations",
  { server, load, order }: { server: ContenderProcess; load: LoadProcess; order: LoadOrder },
): Promise<{ text: string; requests: number }> {
  let requests = 0;
  const text = await server.profile(what, async () => {
    ({ requests } = await load.run(order));
  });
  return { text, requests };
}

interface CpuProfile {
  readonly nodes: readonly {
    readonly id: number;
    readonly callFrame: Frame;
    readonly children?: readonly number[];
  }[];
  readonly samples: readonly number[];
  readonly timeDeltas: readonly number[];
}

function cpuTree({ nodes, samples, timeDeltas }: CpuProfile): CallTree {
  const own = new Map<number, number>();
  for (const [index, id] of samples.entries())
    own.set(id, (own.get(id) ?? 0) + (timeDeltas[index] ?? 0));
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const tree = (id: number): CallTree => {
    const { callFrame, children = [] } = byId.get(id) as CpuProfile["nodes"][number];
    return { callFrame, own: own.get(id) ?? 0, children: children.map(tree) };
  };
  return tree(nodes[0]?.id ?? 0);
}

interface HeapNode {
  readonly callFrame: Frame;
  readonly selfSize: number;
  readonly children: readonly HeapNode[];
}

function heapTree({ callFrame, selfSize, children }: HeapNode): CallTree {
  return { callFrame, own: selfSize, children: children.map(heapTree) };
}

interface Place {
  readonly name: string;
  readonly group: string;
}

function placeOf({ functionName, url, lineNumber }: Frame): Place {
  const file = url.replace(/^.*\/node_modules\//, "").replace(/^.*\/dist\/esm\//, "src/");
  const name = functionName || "(anonymous)";
  if (file === "") return { name, group: name };
  const aPackage = /^(?:@[^/]+\/)?[^/]+/.exec(file)?.[0] ?? file;
  return {
    name: `${name} ${file}:${lineNumber + 1}`,
    group: /^(src|node:)/.test(file) ? file : aPackage,
  };
}

/** Prints the largest parts of a tree, each divided by the requests. */
function print(title: string, tree: CallTree, requests: number): void {
  const groups = new Map<string, number>();
  const own = new Map<string, number>();
  const all = new Map<string, number>();
  const add = (map: Map<string, number>, name: string, amount: number): void =>
    void map.set(name, (map.get(name) ?? 0) + amount);
  const visit = (node: CallTree, above: readonly string[]): number => {
    const { name, group } = placeOf(node.callFrame);
    let amount = node.own;
    for (const child of node.children) amount += visit(child, [...above, name]);
    add(groups, group, node.own);
    add(own, name, node.own);
    // A function that calls itself is counted once.
    if (!above.includes(name)) add(all, name, amount);
    return amount;
  };
  visit(tree, []);
  const list = (what: string, map: Map<string, number>, most: number): void => {
    process.stdout.write(`\n${title}, ${what}\n`);
    const rows = [...map].filter(([name]) => name !== "(root)" && name !== "(idle)");
    for (const [name, amount] of rows.sort(([, a], [, b]) => b - a).slice(0, most))
      process.stdout.write(`${(amount / requests).toFixed(1).padStart(8)}  ${name}\n`);
  };
  list("by file or package", groups, 45);
  list("by function", own, 50);
  list("by function, with what it calls", all, 110);
}

/** Without the time in which there was nothing to do. */
function flameOf(node: CallTree): Flame {
  const { name, group } = placeOf(node.callFrame);
  const children = node.children
    .filter(({ callFrame }) => callFrame.functionName !== "(idle)")
    .map(flameOf);
  const below = children.reduce((sum, { amount }) => sum + amount, 0);
  const isIdle = node.callFrame.functionName === "(root)";
  return {
    name,
    amount: below + (isIdle ? 0 : node.own),
    children,
    isOurs: group.startsWith("src/"),
  };
}

function writeFlame(contender: string, kind: string, tree: CallTree, requests: number): void {
  const flame = flameOf(tree);
  const each = Math.round(flame.amount / requests);
  mkdirSync("docs/images", { recursive: true });
  writeFileSync(
    `docs/images/flame-${contender}-${kind}.svg`,
    flamePlot(`${contender}, ${kind}: ${each} µs of CPU a request, sampled`, flame),
  );
}

async function main(contender: string, kind: string, seconds: number): Promise<void> {
  const postgres = await startPostgres({
    settings: { shared_buffers: "512MB", max_wal_size: "4GB" },
  });
  const redis = await startRedis();
  await prepare(postgres.url);
  const env = { DATABASE_URL: postgres.url, REDIS_URL: redis.url };
  const server = await startContender(contender, env);
  const load = await startLoad();
  const order = orderOf(kind, server.port, seconds);
  if (kind === "replay") await load.store(order, replayedKeys);
  const named = (name: string): LoadOrder =>
    kind === "replay" ? order : { ...order, prefix: `${order.prefix}-${name}` };
  const { rate: _rate, ...closed } = named("warm");
  await load.warm(closed);
  const cpu = await sample("profile", { server, load, order: named("cpu") });
  const spent = cpuTree(JSON.parse(cpu.text) as CpuProfile);
  print("us a request", spent, cpu.requests);
  writeFlame(contender, kind, spent, cpu.requests);
  const heap = await sample("allocations", { server, load, order: named("heap") });
  const { head } = JSON.parse(heap.text) as { head: HeapNode };
  print("bytes a request", heapTree(head), heap.requests);
  await load.end();
  await server.end();
}

const [contender = "oncekey-plain", kind = "first", seconds = "5"] = process.argv.slice(2);
try {
  await main(contender, kind, Number(seconds));
} finally {
  await endEverything();
}
