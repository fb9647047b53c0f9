/**
 * Tells the outbox workers of this process that something was committed. Owns: who listens. A hint that saves a poll and
 * nothing more: a worker in another process, or with another pool, finds the message by polling.
 */
import type { Pool } from "pg";

type Listener = () => void;

const listeners = new WeakMap<Pool, Map<string, Set<Listener>>>();

/** Call after a commit that put messages into the outbox. */
export function wakeOutbox(pool: Pool, schema: string): void {
  for (const listener of listeners.get(pool)?.get(schema) ?? []) listener();
}

/** Calls `listener` after each such commit, until the returned function is called. */
export function onOutboxWake(pool: Pool, schema: string, listener: Listener): () => void {
  const bySchema = listeners.get(pool) ?? new Map<string, Set<Listener>>();
  const ofSchema = bySchema.get(schema) ?? new Set<Listener>();
  listeners.set(pool, bySchema.set(schema, ofSchema.add(listener)));
  return () => void ofSchema.delete(listener);
}
