/**
 * Group commit: what gathers while the last batch is away travels together in the next one. Owns: when a batch leaves, how
 * large it is, and what a failed batch means for its items. No timer and no added waiting when idle.
 */

export interface BatcherOptions<Item, Answer> {
  /**
   * Sends items together and answers them in their order. The items have different names and are sorted by them. `isAgain`: one
   * of a batch that was poisoned.
   */
  readonly send: (items: readonly Item[], isAgain: boolean) => Promise<readonly Answer[]>;
  /** Items of one name never share a batch and keep their order; batches are sorted by it, so that they cannot deadlock. */
  readonly nameOf: (item: Item) => string;
  /** True when a failure says that one of the items is bad; then each is sent singly. */
  readonly isPoisoned: (error: unknown) => boolean;
  readonly maxBatch: number;
  /** What an item weighs, and what a batch may weigh; an item that is heavier by itself leaves alone. Default: no limit. */
  readonly weightOf?: (item: Item) => number;
  readonly maxWeight?: number;
  /** Most batches under way. Two keep the server busy while the next one gathers. */
  readonly maxInFlight: number;
  /**
   * How long the last batch must be under way before the next one, if it is not full, leaves beside it, in ms: a server that answers
   * sooner does less for the same items when they come together. Default 0.
   */
  readonly besideAfterMs?: number;
  /** Most items waiting; more are refused at once rather than queued without bound. */
  readonly maxWaiting: number;
}

const maxDifficult = 1_000;

interface Waiting<Item, Answer> {
  readonly item: Item;
  readonly name: string;
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: unknown) => void;
}

/** Returns a function that adds an item to the next batch and answers for it alone. */
export function createBatcher<Item, Answer>(
  options: BatcherOptions<Item, Answer>,
): (item: Item) => Promise<Answer> {
  const { weightOf = () => 0, maxWeight = Infinity, besideAfterMs = 0 } = options;
  let waiting: Waiting<Item, Answer>[] = [];
  /** Names whose item has failed by itself. The next items of such a name leave one after another, beside the batches of others. */
  const difficult = new Set<string>();
  let alone = Promise.resolve();
  let aloneWaiting = 0;
  let inFlight = 0;
  let scheduled = false;
  /** Runs while the last batch is not long under way. */
  let holding: NodeJS.Timeout | undefined;

  const schedule = (): void => {
    if (scheduled || inFlight >= options.maxInFlight || waiting.length === 0) return;
    if (holding !== undefined && waiting.length < options.maxBatch) return;
    scheduled = true;
    setImmediate(() => {
      scheduled = false;
      if (waiting.length === 0) return;
      inFlight += 1;
      void dispatch(takeBatch()).finally(() => {
        inFlight -= 1;
        if (inFlight === 0) stopHolding();
        schedule();
      });
      if (besideAfterMs > 0) hold();
      schedule();
    });
  };

  const hold = (): void => {
    stopHolding();
    holding = setTimeout(() => {
      holding = undefined;
      schedule();
    }, besideAfterMs);
  };
  const stopHolding = (): void => {
    clearTimeout(holding);
    holding = undefined;
  };

  /** Takes the oldest items, at most one of each name, in the order of names. */
  const takeBatch = (): Waiting<Item, Answer>[] => {
    const batch = new Map<string, Waiting<Item, Answer>>();
    const again: Waiting<Item, Answer>[] = [];
    let weight = 0;
    let looked = 0;
    for (const entry of waiting) {
      if (batch.has(entry.name)) again.push(entry);
      else {
        weight += weightOf(entry.item);
        // Nobody is taken from behind one that has no room: it could have the same name.
        if (batch.size > 0 && (batch.size >= options.maxBatch || weight > maxWeight)) break;
        batch.set(entry.name, entry);
      }
      looked += 1;
    }
    waiting = [...again, ...waiting.slice(looked)];
    return [...batch.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  };

  /** Never rejects. */
  const dispatch = async (
    batch: readonly Waiting<Item, Answer>[],
    isAgain = false,
  ): Promise<void> => {
    try {
      const items = batch.map((entry) => entry.item);
      const answers = await options.send(items, isAgain);
      batch.forEach((entry, index) => entry.resolve(answers[index] as Answer));
      if (difficult.size > 0) for (const { name } of batch) difficult.delete(name);
    } catch (error) {
      const isPoisoned = options.isPoisoned(error);
      if (batch.length > 1 && isPoisoned) for (const entry of batch) await dispatch([entry], true);
      else for (const entry of batch) entry.reject(error);
      if (batch.length === 1 && isPoisoned) remember((batch[0] as Waiting<Item, Answer>).name);
    }
  };

  const remember = (name: string): void => {
    // One whose item is never sent again would stay for ever.
    if (difficult.size >= maxDifficult) difficult.clear();
    difficult.add(name);
  };

  return (item) =>
    new Promise((resolve, reject) => {
      if (waiting.length + aloneWaiting >= options.maxWaiting) {
        reject(new Error(`more than ${options.maxWaiting} operations wait for the store`));
        return;
      }
      const entry = { item, name: options.nameOf(item), resolve, reject };
      if (difficult.has(entry.name)) {
        aloneWaiting += 1;
        alone = alone.then(() => {
          aloneWaiting -= 1;
          return dispatch([entry]);
        });
        return;
      }
      waiting.push(entry);
      schedule();
    });
}
