/**
 * Hints between processes through Redis. Owns: the channels, and the one connection that subscribes. They are published by the
 * scripts that keep and unmark entries (keep-n.lua, unmark-1.lua), at the moment at which the cache knows: no further round
 * trip, and no waiter that is woken finds the marker of a run that has ended.
 *
 * Not on a Redis Cluster: there each message goes to every node, also where nobody listens, and one is published for each
 * completed key. Hints come through Postgres then.
 */
import { hash } from "node:crypto";
import type { Cluster, Redis } from "ioredis";
import { systemClock } from "../core/clock.js";
import { nameOf } from "../core/key.js";
import type { Watch } from "../core/ports.js";
import type { KeyRef } from "../core/record.js";
import { createHints } from "./hints.js";
import type { HintLine } from "./hints.js";

export interface ChannelHints {
  /** The key's channel, or "" where nothing is published. It shows no key. */
  channelOf(ref: KeyRef): string;
  /** Undefined where no hint can come this way. */
  watch(ref: KeyRef, onHint: () => void): Watch | undefined;
  close(): void;
}

export function createChannelHints(client: Redis | Cluster, prefix: string): ChannelHints {
  if (client.isCluster) return { channelOf: () => "", watch: () => undefined, close: () => {} };
  const single = client as Redis;
  const hints = createHints({
    clock: systemClock,
    open: (onHint, onLost) => openLine(single, onHint, onLost),
  });
  const channelOf = (ref: KeyRef): string =>
    `${prefix}ended:${hash("sha256", nameOf(ref), "base64url")}`;
  return {
    channelOf,
    watch: (ref, onHint) =>
      single.status === "ready" ? hints.watch(channelOf(ref), onHint) : undefined,
    close: () => hints.close(),
  };
}

/** A connection that subscribes can do nothing else. It is not the driver's to connect again: what it missed must be told. */
async function openLine(
  client: Redis,
  onHint: (name: string) => void,
  onLost: () => void,
): Promise<HintLine> {
  const subscriber = client.duplicate({
    lazyConnect: true,
    retryStrategy: () => null,
    autoResubscribe: false,
    maxRetriesPerRequest: null,
    // Channels are no keys, and the scripts publish to them without it.
    keyPrefix: "",
  });
  // Whatever it is, the line is closed; without a listener it would be printed.
  subscriber.on("error", onLost);
  subscriber.on("end", onLost);
  subscriber.on("message", onHint);
  try {
    await subscriber.connect();
  } catch (error) {
    subscriber.disconnect();
    throw error;
  }
  return {
    add: async (channels) => {
      await subscriber.subscribe(...channels);
      return channels;
    },
    remove: (channels) => subscriber.unsubscribe(...channels),
    close: () => subscriber.disconnect(),
  };
}
