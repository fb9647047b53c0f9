/**
 * What the primary process and its workers tell each other. Owns: the shape of those messages; anything else that comes down
 * the channel belongs to somebody else (prom-client uses it too) and is left alone.
 */
import { z } from "zod";

const fromWorker = z.discriminatedUnion("kind", [
  /** It serves requests now. */
  z.object({ kind: z.literal("listening"), port: z.int() }),
  /** It cannot, and is about to exit; the message is for people. */
  z.object({ kind: z.literal("failed"), message: z.string() }),
  /** Somebody scraped this worker, and wants the sum of all. */
  z.object({ kind: z.literal("metrics_wanted"), id: z.int() }),
]);

const fromPrimary = z.discriminatedUnion("kind", [
  /** Finish what runs, then exit. */
  z.object({ kind: z.literal("stop") }),
  /** Undefined text: not every worker answered in time. */
  z.object({ kind: z.literal("metrics"), id: z.int(), text: z.string().optional() }),
]);

export type FromWorker = z.infer<typeof fromWorker>;
export type FromPrimary = z.infer<typeof fromPrimary>;

export function readFromWorker(message: unknown): FromWorker | undefined {
  return fromWorker.safeParse(message).data;
}

export function readFromPrimary(message: unknown): FromPrimary | undefined {
  return fromPrimary.safeParse(message).data;
}
