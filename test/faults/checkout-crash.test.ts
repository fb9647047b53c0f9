/**
 * kill -9 at every await of a checkout. At each point the line stands still, so that the process dies waiting exactly there;
 * then another one goes on, asked by a retry or by nobody at all. DESIGN, section 2, steps.
 */
import { waitFor } from "../support/wait-for.js";
import {
  effectsOf,
  inTurns,
  onceEach,
  onSale,
  openShop,
  path,
  sameEverAfter,
  type Shop,
  stateOf,
} from "./checkout-bench.js";
import { awaits, type Point, points, waitAt } from "./checkout-points.js";
import { type Answer, newKey, post } from "./client.js";

const ways = ["a retry", "the completer"] as const;
type Way = (typeof ways)[number];

/**
 * `npm run chaos:checkouts` takes both ways at every point. Else both ways are taken at every await, one of them before it and
 * one after it, in turns: starting a process for each is what takes the time.
 */
function waysFor(point: Point): readonly Way[] {
  if (process.env["CHECKOUTS"] === "all") return ways;
  const index = awaits.findIndex(({ name }) => name === point.name);
  return [ways[(index + (point.when === "before" ? 0 : 1)) % 2]!];
}

type Story = { readonly answer: Answer; readonly effects: object; readonly wasHeld: boolean };
let stories: ReadonlyMap<string, Promise<Story>> = new Map();
const nameOf = (point: Point, way: Way): string => `${point.when} ${point.name}, by ${way}`;
const shops: Shop[] = [];

beforeAll(async () => {
  const [retried, completed] = await Promise.all([openShop(), openShop()]);
  shops.push(retried, completed);
  // Who goes on: one that does only what it is asked, and one that nobody asks.
  const [asked, unasked] = await Promise.all([
    retried.server({ ONCEKEY_WORKERS: "off" }),
    completed.server(),
  ]);
  const lives: Record<Way, { shop: Shop; url: string }> = {
    "a retry": { shop: retried, url: asked.url },
    "the completer": { shop: completed, url: unasked.url },
  };
  const runs = points.flatMap((point) =>
    waysFor(point).map((way) => ({
      name: nameOf(point, way),
      run: () => dieAt(point, way, lives[way].shop, lives[way].url),
    })),
  );
  stories = inTurns(runs);
});
afterAll(async () => {
  await Promise.allSettled(stories.values());
  await Promise.all(shops.map((shop) => shop.end()));
}, 300_000);

/** Kills a server at this point of a checkout, and has another one finish it. */
async function dieAt(point: Point, way: Way, shop: Shop, survivor: string): Promise<Story> {
  const key = newKey();
  const call = await onSale(shop, key);
  const node = await shop.node();
  const first = post(node.url, path, call).then(
    (answer) => answer,
    () => undefined,
  );
  const held = await waitAt(node, point, first);
  await node.end();
  expect(await first).toBeUndefined();
  if (way === "the completer" && (await stateOf(shop, key)) !== undefined) {
    await waitFor(async () => (await stateOf(shop, key)) === "completed", {
      timeoutMs: 90_000,
      what: `the completer to finish what died ${point.when} ${point.name}`,
    });
  }
  const answer = await sameEverAfter([survivor], call);
  const effects = await effectsOf(shop, key);
  return { answer, effects, wasHeld: held !== undefined };
}

describe.each(ways)("killed, and finished by %s:", (way) => {
  const taken = points.filter((point) => waysFor(point).includes(way));
  test.each(taken.map((point) => [point.when, point.name, point] as const))(
    "%s %s",
    async (_when, _name, point) => {
      const story = await stories.get(nameOf(point, way));
      expect(story?.wasHeld).toBe(true);
      expect(story?.answer.status).toBe(201);
      expect(story?.effects).toEqual(onceEach);
    },
    100_000,
  );
});

test("a client that has its answer gets the same one from the next process", async () => {
  const shop = shops[0]!;
  const call = await onSale(shop, newKey());
  const node = await shop.node();
  const first = await post(node.url, path, call);
  await node.end();
  const next = await shop.server();
  const again = await sameEverAfter([next.url], call);
  expect([again.status, again.headers["idempotent-replayed"]]).toEqual([201, "true"]);
  expect(again.bytes.equals(first.bytes)).toBe(true);
  expect(await effectsOf(shop, call.key)).toEqual(onceEach);
}, 300_000);
