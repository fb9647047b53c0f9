/**
 * Requests that wait for a key, gathered by key. Owns: who looks, when, and who is told what came of a look. Must never decide
 * what a key's state means, and must never let two waiters of this process look at one key at once.
 *
 * Equal requests (one fingerprint, one route) share a look: one of them leads, and what it learns is true for all of them. So
 * a thousand waiters on a key cost the store what one does. A claim is never shared: only the leader gets it, the others wait on.
 */
import type { Clock } from "./clock.js";
import { IdempotencyError } from "./errors.js";
import { nameOf } from "./key.js";
import type { Watch } from "./ports.js";
import type { KeyRef } from "./record.js";
import type { LookPauses, Outcome } from "./request.js";

/** What a look came to. Only with `claimed` may the one who looked run. */
export type Looked = "claimed" | Outcome;

/** A request that is ready to wait. */
export interface WaitingRequest extends KeyRef {
  /** Requests of one fingerprint and one route are answered alike. */
  readonly fingerprint: string;
  readonly route: object;
  /** How long it waits at most, counted from its coming; a look that is under way is not cut short. */
  readonly waitMs: number;
  /** Aborted when the client is gone. */
  readonly signal: AbortSignal;
  /** Asks the store. Never rejects. */
  readonly look: () => Promise<Looked>;
}

export interface WaitingRooms {
  /** Resolves when the request has an answer, its time is up, or its client is gone. */
  wait(request: WaitingRequest): Promise<Looked>;
  /** True while one more request may wait. */
  hasRoom(): boolean;
  /** The key may have been released or completed: worth a look. */
  wake(ref: KeyRef): void;
  /** Requests that wait now. */
  size(): number;
  /** Ends all waiting: 409, or 503 for those who do not know their key's state yet. */
  close(): void;
}

const defaultLookPauses: LookPauses = {
  firstMs: 25,
  longestMs: 500,
  watchedFirstMs: 250,
  watchedLongestMs: 2_000,
};

export interface WaitingOptions {
  readonly clock: Pick<Clock, "sleep">;
  /** Hints of the store; undefined where it has none, or where the key runs in this process, which wakes by itself. */
  readonly watch: (ref: KeyRef, onHint: () => void) => Watch | undefined;
  readonly pauses?: LookPauses | undefined;
}

/** Each waiter holds a socket and its request's body; more than these are turned away at once, as where nobody may wait. */
export const maxWaiters = 10_000;
/** Answers in one turn of the event loop: a thousand at once would keep the requests of all other keys waiting. */
const answersPerTurn = 32;

export function createWaitingRooms(options: WaitingOptions): WaitingRooms {
  const rooms = new Map<string, Room>();
  let waiting = 0;
  let isClosed = false;
  const leave = (): void => {
    waiting -= 1;
  };
  return {
    wait: (request) => {
      if (isClosed) return Promise.resolve(unavailable());
      const name = nameOf(request);
      let room = rooms.get(name);
      if (room === undefined) {
        room = new Room(request, options, () => rooms.delete(name));
        rooms.set(name, room);
      }
      waiting += 1;
      return room.enter(request).finally(leave);
    },
    hasRoom: () => waiting < maxWaiters,
    wake: (ref) => rooms.get(nameOf(ref))?.hint(),
    size: () => waiting,
    close: () => {
      isClosed = true;
      for (const room of rooms.values()) room.close();
    },
  };
}

interface Waiter {
  readonly request: WaitingRequest;
  readonly answer: (looked: Looked) => void;
  isLeading: boolean;
  /** Its time is up, or its client is gone: no further look is for it. */
  isOver: boolean;
}

/** Equal requests. */
interface Group {
  readonly waiters: Set<Waiter>;
  /** False until the first look has ended: nobody of it can say yet that the key is in progress. */
  hasLooked: boolean;
}

class Room {
  readonly #ref: KeyRef;
  readonly #options: WaitingOptions;
  readonly #pauses: LookPauses;
  readonly #whenEmpty: () => void;
  readonly #groups = new Map<object, Map<string, Group>>();
  #watch: Watch | undefined;
  #isHinted = false;
  #isClosed = false;
  #pause: AbortController | undefined;
  #isWorking = false;

  constructor(ref: KeyRef, options: WaitingOptions, whenEmpty: () => void) {
    this.#ref = { scope: ref.scope, key: ref.key };
    this.#options = options;
    this.#pauses = options.pauses ?? defaultLookPauses;
    this.#whenEmpty = whenEmpty;
  }

  enter(request: WaitingRequest): Promise<Looked> {
    return new Promise((resolve) => {
      const group = this.#groupOf(request);
      const left = new AbortController();
      const over = (): void => {
        waiter.isOver = true;
        if (!waiter.isLeading && (group.hasLooked || request.signal.aborted)) waiter.answer(busy());
      };
      const waiter: Waiter = {
        request,
        isLeading: false,
        isOver: false,
        answer: (looked) => {
          group.waiters.delete(waiter);
          request.signal.removeEventListener("abort", over);
          left.abort();
          // Nobody is left to look for.
          if (group.waiters.size === 0) this.#pause?.abort();
          resolve(looked);
        },
      };
      group.waiters.add(waiter);
      request.signal.addEventListener("abort", over, { once: true });
      const expire = async (): Promise<void> => {
        await this.#options.clock.sleep(request.waitMs, left.signal);
        if (!left.signal.aborted) over();
      };
      void expire();
      if (!this.#isWorking) void this.#work();
      else if (!group.hasLooked) this.#pause?.abort();
    });
  }

  /** Ends the pause, also one that has not begun yet. */
  hint(): void {
    this.#isHinted = true;
    this.#pause?.abort();
  }

  close(): void {
    this.#isClosed = true;
    for (const group of this.#all()) {
      for (const waiter of group.waiters)
        if (!waiter.isLeading) waiter.answer(group.hasLooked ? busy() : unavailable());
    }
    this.#pause?.abort();
  }

  /** Looks and pauses by turns while anybody waits. */
  async #work(): Promise<void> {
    this.#isWorking = true;
    let looks = 0;
    let isKnown = false;
    let wasHinted = false;
    while (this.#hasWaiters()) {
      this.#isHinted = false;
      await this.#lookAround(isKnown);
      if (!this.#hasWaiters()) break;
      this.#watch ??= this.#options.watch(this.#ref, () => this.hint());
      const hasRested = this.#isHinted ? false : await this.#rest(looks, wasHinted);
      wasHinted = this.#isHinted;
      looks = wasHinted ? 0 : looks + 1;
      // A newcomer with another request ends the pause too, and that says nothing of the key.
      isKnown = !hasRested && !wasHinted;
    }
    this.#isWorking = false;
    this.#watch?.stop();
    this.#whenEmpty();
  }

  /** True when the pause has run its time. */
  async #rest(looks: number, wasHinted: boolean): Promise<boolean> {
    const { firstMs, longestMs, watchedFirstMs, watchedLongestMs } = this.#pauses;
    const doubled = 2 ** Math.min(looks, 10);
    // A hint may come a moment too early, as where a cache has not been told yet: the look after it is followed by another.
    const isWatched = this.#watch?.isLive() === true && !wasHinted;
    const pauseMs = isWatched
      ? Math.min(watchedLongestMs, watchedFirstMs * doubled)
      : Math.min(longestMs, firstMs * doubled);
    const pause = new AbortController();
    this.#pause = pause;
    await this.#options.clock.sleep(pauseMs, pause.signal);
    this.#pause = undefined;
    return !pause.signal.aborted;
  }

  /** Until the key is known to be in progress for everybody who is left. */
  async #lookAround(isKnown: boolean): Promise<void> {
    let isInProgress = isKnown;
    for (;;) {
      const group = this.#nextGroup(isInProgress);
      const leader = group === undefined ? undefined : first(group.waiters);
      if (group === undefined || leader === undefined) return;
      leader.isLeading = true;
      const wasKnown = group.hasLooked;
      const found = await leader.request.look();
      // A look that the shutdown has cut off takes nothing away from what the one before it found.
      const looked = this.#isClosed && wasKnown && isUnavailable(found) ? busy() : found;
      leader.isLeading = false;
      group.hasLooked = true;
      if (looked === "claimed") {
        isInProgress = true;
        leader.answer("claimed");
        // One turn, in which the leader is entered as running: the others then need no watch.
        if (this.#hasWaiters()) await this.#options.clock.sleep(0);
      } else if (isBusy(looked)) {
        isInProgress = true;
        for (const waiter of group.waiters)
          if (waiter.isOver || this.#isClosed) waiter.answer(looked);
      } else await this.#tell(group, leader, looked);
    }
  }

  /** Tells a final answer to all it holds for. */
  async #tell(group: Group, leader: Waiter, looked: Outcome): Promise<void> {
    leader.answer(looked);
    const isStoreAway = isUnavailable(looked);
    const told = isStoreAway ? this.#all() : [group];
    // Whoever comes from now on has to look for itself.
    this.#forget(told);
    // Only the leader has a claim that may have been made unseen, so only its answer says that one was asked for.
    const answer = isStoreAway ? unavailable() : looked;
    let turns = 0;
    for (const waiter of told.flatMap(({ waiters }) => [...waiters])) {
      waiter.answer(answer);
      turns += 1;
      if (turns % answersPerTurn === 0) await this.#options.clock.sleep(0);
    }
  }

  /** One that has never looked, or else, while the key's state is not known, the oldest. */
  #nextGroup(isInProgress: boolean): Group | undefined {
    this.#forget(this.#all().filter(({ waiters }) => waiters.size === 0));
    const groups = this.#all();
    return groups.find((group) => !group.hasLooked) ?? (isInProgress ? undefined : groups[0]);
  }

  #groupOf({ route, fingerprint }: WaitingRequest): Group {
    const ofRoute = this.#groups.get(route) ?? new Map<string, Group>();
    const group = ofRoute.get(fingerprint) ?? { waiters: new Set<Waiter>(), hasLooked: false };
    this.#groups.set(route, ofRoute.set(fingerprint, group));
    return group;
  }

  #forget(groups: readonly Group[]): void {
    for (const [route, ofRoute] of this.#groups) {
      for (const [fingerprint, group] of ofRoute)
        if (groups.includes(group)) ofRoute.delete(fingerprint);
      if (ofRoute.size === 0) this.#groups.delete(route);
    }
  }

  #all(): Group[] {
    return [...this.#groups.values()].flatMap((ofRoute) => [...ofRoute.values()]);
  }

  #hasWaiters(): boolean {
    return this.#all().some(({ waiters }) => waiters.size > 0);
  }
}

function first(waiters: ReadonlySet<Waiter>): Waiter | undefined {
  for (const waiter of waiters) return waiter;
  return undefined;
}

function isUnavailable(looked: Looked): boolean {
  return (
    looked !== "claimed" && looked.kind === "refuse" && looked.error.code === "store_unavailable"
  );
}

function isBusy(looked: Outcome): boolean {
  return looked.kind === "refuse" && looked.error.code === "in_progress";
}

function busy(): Outcome {
  return { kind: "refuse", error: new IdempotencyError("in_progress", { retryAfterSeconds: 1 }) };
}

function unavailable(): Outcome {
  const error = new IdempotencyError("store_unavailable", { retryAfterSeconds: 1 });
  return { kind: "refuse", error };
}
