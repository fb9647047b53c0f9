/**
 * Clients that want their keys answered: each asks again while it is told "later" or loses its connection, and then once
 * more to see the same answer. What they saw is held against the promises at the end.
 */
import { setTimeout as pause } from "node:timers/promises";

import { waitFor } from "../support/wait-for.js";
import { type Answer, newKey, post } from "./client.js";

export type Route = { readonly path: string; readonly body: unknown };

export type TrafficOptions = {
  readonly clients: number;
  readonly routes: readonly Route[];
  /** Where to send the next try; read anew for each, since servers come and go. */
  readonly urls: () => readonly string[];
  readonly random?: () => number;
  /** A client gives up on a key after this; default 15 s. */
  readonly patienceMs?: number;
};

/** All that was seen of one key. */
export type Story = {
  readonly key: string;
  readonly path: string;
  readonly body: unknown;
  /** Answers that are stored, so that all of them must be the same, as `<status> <bytes>`. */
  readonly stored: Set<string>;
  /** 2xx answers, also those that could not be stored. */
  readonly successes: Set<string>;
  /** `<status> <code>` of the others. */
  readonly refusals: Set<string>;
  /** Lost connections. */
  losses: number;
};

export type Traffic = {
  readonly stories: readonly Story[];
  /** Resolves when so many keys more have been dealt with. */
  progress(keys: number): Promise<void>;
  /** Lets the clients finish the keys they are at. */
  finish(): Promise<readonly Story[]>;
};

/** Longest pause of a client between two tries. */
const pauseMs = 40;

export function startTraffic(options: TrafficOptions): Traffic {
  const random = options.random ?? Math.random;
  const stories: Story[] = [];
  let done = 0;
  const finishing = new AbortController();

  const client = async (): Promise<void> => {
    while (!finishing.signal.aborted) {
      const route = options.routes[stories.length % options.routes.length]!;
      const story = begin(route);
      stories.push(story);
      await settle(story);
      done += 1;
    }
  };
  const settle = async (story: Story): Promise<void> => {
    const deadline = performance.now() + (options.patienceMs ?? 15_000);
    let seen = 0;
    while (seen < 2 && performance.now() < deadline) {
      // Now and then two tries at once, as from a client that gave up too early.
      const tries = random() < 0.3 ? 2 : 1;
      const answers = await Promise.all(Array.from({ length: tries }, () => ask(story)));
      if (answers.includes("final")) seen += 1;
      else await pause(pauseMs * random());
    }
  };
  const ask = async (story: Story): Promise<"final" | "later"> => {
    const urls = options.urls();
    const url = urls[Math.floor(random() * urls.length)]!;
    try {
      return note(story, await post(url, story.path, story));
    } catch {
      story.losses += 1;
      return "later";
    }
  };

  const running = Array.from({ length: options.clients }, client);
  return {
    stories,
    progress: async (keys) => {
      const goal = done + keys;
      await waitFor(() => done >= goal, { timeoutMs: 60_000, what: `${keys} keys more` });
    },
    finish: async () => {
      finishing.abort();
      await Promise.all(running);
      return stories;
    },
  };
}

function begin({ path, body }: Route): Story {
  return {
    key: newKey(),
    path,
    body,
    stored: new Set(),
    successes: new Set(),
    refusals: new Set(),
    losses: 0,
  };
}

/** Writes an answer into the story; `later` when the client should ask again. */
export function note(story: Story, answer: Answer): "final" | "later" {
  const text = `${answer.status} ${answer.bytes.toString("latin1")}`;
  const isSuccess = answer.status < 300;
  if (isSuccess) story.successes.add(text);
  // The response of a handler, once stored, names the request that it was made for.
  const isStored = answer.headers["original-request"] !== undefined;
  if (isStored) story.stored.add(text);
  else story.refusals.add(`${answer.status} ${answer.code}`);
  return isStored || answer.code === "outcome_unknown" ? "final" : "later";
}

/** What a story says against the promises of DESIGN, section 2; empty when it keeps them. */
export function complaints(story: Story, effects: number): string[] {
  const found: string[] = [];
  const complain = (what: string): void => void found.push(`${story.path} ${story.key}: ${what}`);
  if (effects > 1) complain(`${effects} effects`);
  if (story.successes.size > 0 && effects !== 1) complain(`a success, and ${effects} effects`);
  const answers = new Set([...story.stored, ...story.successes]);
  if (answers.size > 1) complain(`different answers: ${[...answers].join(" | ")}`);
  return found;
}
