/**
 * Hints between processes through Postgres. Owns: how waiters announce themselves, and who sends a notification. A notification
 * is sent where somebody waits and nowhere else: the commit of a NOTIFY takes a lock of the whole server, so that one with
 * each completion would put all commits in a row.
 *
 * Waiters hold a shared advisory lock on the key's wait hash, on the one connection that also listens. Whoever ends a key
 * tries that lock exclusively within the statement that it sends anyway (see watch.sql), which costs it nothing it could
 * measure, works for transaction routes, whose rows nobody can mark while they run, and needs no table.
 */
import type { Pool } from "pg";
import { systemClock } from "../core/clock.js";
import type { Watch } from "../core/ports.js";
import type { KeyRef } from "../core/record.js";
import { hashArray } from "./binary-array.js";
import { derivePool } from "./connections.js";
import type { Connections } from "./connections.js";
import { createHints } from "./hints.js";
import type { HintLine } from "./hints.js";
import { ownTypes } from "./own-types.js";
import { waitHash } from "./rows.js";
import type { Statements } from "./sql-text.js";

export interface KeyHints {
  watch(ref: KeyRef, onHint: () => void): Watch;
  /** Tells the watchers of keys that were ended by a statement which found that somebody waits. Goes on behind. */
  tell(hashes: readonly string[]): void;
  /** Tells the watchers of a key, if there are any, where no statement could find out. Goes on behind. */
  tellAnybody(ref: KeyRef): void;
  hashOf(ref: KeyRef): string;
  close(): void;
}

export interface KeyHintsOptions {
  readonly pool: Pool;
  readonly schema: string;
  readonly statements: Statements;
  readonly timeoutMs: number;
  /** The connections that hints are sent on. */
  readonly own: Connections;
}

/** One channel for all schemas: the hash in the payload holds the schema's name, and no key. */
const channel = "oncekey_ended";

export function createKeyHints(options: KeyHintsOptions): KeyHints {
  const { schema, statements, own } = options;
  const hints = createHints({
    clock: systemClock,
    open: (onHint, onLost) => openLine(options, onHint, onLost),
  });
  const send = (hashes: readonly string[], isAwaited: boolean): void => {
    // A hint that is lost costs a waiter a pause.
    own.run(statements.hint, [hashArray(hashes), String(isAwaited)]).catch(() => undefined);
  };
  const hashOf = (ref: KeyRef): string => waitHash(schema, ref);
  return {
    hashOf,
    watch: (ref, onHint) => hints.watch(hashOf(ref), onHint),
    tell: (hashes) => {
      if (hashes.length > 0) send(hashes, true);
    },
    tellAnybody: (ref) => send([hashOf(ref)], false),
    close: () => hints.close(),
  };
}

/** A connection of its own: locks and LISTEN belong to the session, and no statement of the store may wait behind it. */
async function openLine(
  { pool, statements, timeoutMs }: KeyHintsOptions,
  onHint: (name: string) => void,
  onLost: () => void,
): Promise<HintLine> {
  const source = derivePool(pool, { max: 1, timeoutMs, types: ownTypes });
  source.on("error", onLost);
  const client = await source.connect().catch(async (error: unknown) => {
    await source.end();
    throw error;
  });
  let isOpen = true;
  const close = (): void => {
    if (!isOpen) return;
    isOpen = false;
    client.release(true);
    source.end().catch(() => undefined);
  };
  client.on("error", onLost);
  client.on("end", onLost);
  client.on("notification", ({ payload }) => onHint(payload ?? ""));
  try {
    await client.query(`LISTEN ${channel}`);
  } catch (error) {
    close();
    throw error;
  }
  return {
    add: async (hashes) => {
      const { rows } = await client.query<{ hash: string }>(statements.watch.text, [hashes]);
      return rows.map(({ hash }) => hash);
    },
    remove: (hashes) => client.query(statements.unwatch.text, [hashes]),
    close,
  };
}
