/** Delivery to a Redis stream. Owns: the fields of an entry. Consumers dedupe by `event_id`: an entry can come twice. */
import type { Cluster, Redis } from "ioredis";
import { z } from "zod";
import { checkOptions } from "./check-options.js";
import { deliveryError } from "./destination.js";
import type { Destination } from "./destination.js";

export interface RedisStreamOptions {
  /** An ioredis `Redis` or `Cluster`. It is used and never ended. */
  readonly client: Redis | Cluster;
  /** The stream, or a function of the topic. */
  readonly stream: string | ((topic: string) => string);
  /**
   * Roughly how many entries the stream keeps (`MAXLEN ~`). Default: all of them. Entries that no consumer has read are
   * dropped too.
   */
  readonly maxLength?: number;
}

const isFunction = (value: unknown): boolean => typeof value === "function";
const shape = z.strictObject({
  client: z.custom(
    (value) =>
      typeof value === "object" && value !== null && "xadd" in value && isFunction(value.xadd),
    { error: "must be a client of ioredis" },
  ),
  stream: z.union([z.string().min(1), z.custom(isFunction)]),
  maxLength: z.number().int().min(1).optional(),
});

/**
 * A destination that XADDs to a stream, with the fields `event_id`, `topic` and `payload` (the stored JSON text).
 *
 * At least once: an entry comes again where a reply of Redis was lost, and then it can stand behind later ones of its key.
 * Consumers that skip an `event_id` they have seen get every message once and in order.
 */
export function redisStreamDestination(options: RedisStreamOptions): Destination {
  checkOptions("redisStreamDestination", shape, options);
  const { client, stream, maxLength } = options;
  return {
    deliver: async ({ eventId, topic, payload }, { signal }) => {
      const name = typeof stream === "function" ? stream(topic) : stream;
      const fields = ["event_id", eventId, "topic", topic, "payload", payload];
      const added =
        maxLength === undefined
          ? client.xadd(name, "*", ...fields)
          : client.xadd(name, "MAXLEN", "~", maxLength, "*", ...fields);
      await unlessAborted(added, signal);
    },
  };
}

/** ioredis cannot take a command back; one that is written later all the same adds the entry a second time. */
async function unlessAborted(work: Promise<unknown>, signal: AbortSignal): Promise<void> {
  let stop: () => void = () => undefined;
  const aborted = new Promise<never>((_resolve, reject) => {
    stop = () => reject(deliveryError("no answer from Redis in time"));
    if (signal.aborted) stop();
    else signal.addEventListener("abort", stop, { once: true });
  });
  try {
    await Promise.race([work, aborted]);
  } catch (error) {
    // An error of Redis can quote the arguments of its command.
    const text = error instanceof Error ? error.message.replace(/,? with args.*/s, "") : "failed";
    throw deliveryError(`Redis: ${text.slice(0, 200)}`, { cause: error });
  } finally {
    signal.removeEventListener("abort", stop);
  }
}
