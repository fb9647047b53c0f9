/**
 * A process that stands still (SIGSTOP) at every await of a checkout, past its lease and past every limit, while another one
 * sells. Then it goes on as if nothing had been, and what it had sent arrives late. It changes nothing any more.
 */
import {
  effectsOf,
  type Effects,
  inTurns,
  onceEach,
  onSale,
  openShop,
  path,
  rowsOf,
  sameEverAfter,
  type Shop,
} from "./checkout-bench.js";
import { type Point, points, waitAt } from "./checkout-points.js";
import { type Answer, newKey, post, retry } from "./client.js";

/** Of the frozen process: Postgres ends its open transaction after so long, and the other one can go on. */
const stepTimeoutMs = 1_500;

type Story = {
  readonly wasHeld: boolean;
  /** Of the process that took over. */
  readonly made: Answer;
  readonly effects: Effects;
  /** Every row, when the other one had sold and when the frozen one had come to its end. */
  readonly rowsBefore: string;
  readonly rowsAfter: string;
  readonly late: Answer;
};
let shop: Shop;
let stories: ReadonlyMap<string, Promise<Story>> = new Map();
const nameOf = ({ when, name }: Point): string => `${when} ${name}`;

beforeAll(async () => {
  shop = await openShop({ env: { ONCEKEY_STEP_TIMEOUT_MS: String(stepTimeoutMs) } });
  const other = await shop.server();
  stories = inTurns(
    points.map((point) => ({ name: nameOf(point), run: () => standStillAt(point, other.url) })),
  );
});
afterAll(async () => {
  await Promise.allSettled(stories.values());
  await shop.end();
}, 300_000);

async function standStillAt(point: Point, other: string): Promise<Story> {
  const call = await onSale(shop, newKey());
  const node = await shop.node();
  const first = post(node.url, path, call);
  const held = await waitAt(node, point, first);
  node.server.freeze();
  const made = await retry(other, path, call);
  const rowsBefore = await rowsOf(shop, call.key);

  node.server.thaw();
  held?.release();
  const late = await first;
  await sameEverAfter([other, node.url], call);
  const rowsAfter = await rowsOf(shop, call.key);
  const effects = await effectsOf(shop, call.key);
  await node.end();
  return { wasHeld: held !== undefined, made, effects, rowsBefore, rowsAfter, late };
}

test.each(points.map((point) => [point.when, point.name, point] as const))(
  "frozen %s %s",
  async (_when, _name, point) => {
    const story = await stories.get(nameOf(point));
    expect(story?.wasHeld).toBe(true);
    expect(story?.made.status).toBe(201);
    expect(story?.effects).toEqual(onceEach);
    expect(story?.rowsAfter).toBe(story?.rowsBefore);
    // The frozen one tells its client the truth, or to come again.
    const { status, code, bytes } = story!.late;
    const isSame = status === 201 && bytes.equals(story!.made.bytes);
    const comeAgain = ["in_progress", "attempt_failed", "store_unavailable"];
    expect(isSame || comeAgain.includes(String(code)) || `${status} ${code}`).toBe(true);
  },
  100_000,
);
