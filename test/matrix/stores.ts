/** The stores of the matrix, as two processes would open them. */
import { randomUUID } from "node:crypto";

import { Redis } from "ioredis";
import type pg from "pg";

import type { Cache, Store } from "../../src/index.js";
import { memoryStore } from "../../src/stores/memory.js";
import { postgresStore } from "../../src/stores/postgres.js";
import { redisCache } from "../../src/stores/redis.js";
import { redisUrl } from "../support/servers.js";

export const storeNames = ["memory", "postgres", "redis"] as const;
export type StoreName = (typeof storeNames)[number];

/** Options of an instance, whatever adapter it is made for. */
export interface StoreOptions {
  readonly name: StoreName;
  readonly store: Store;
  readonly cache?: Cache;
}

export interface Process {
  readonly stores: readonly StoreOptions[];
  close(): Promise<void>;
}

/** Two processes that share their stores; the memory of the first stands in for that of both. */
export async function openProcesses(pool: pg.Pool): Promise<readonly [Process, Process]> {
  const prefix = `matrix-${randomUUID()}:`;
  const memory = memoryStore();
  const open = async (): Promise<Process> => {
    const client = new Redis(redisUrl(), { lazyConnect: true });
    await client.connect();
    // Machines that run tests are busy: a time-out would hide what is looked at.
    const cache = redisCache({ client, prefix, budgetMs: 5_000 });
    return {
      stores: [
        { name: "memory", store: memory },
        { name: "postgres", store: postgresStore({ pool }) },
        { name: "redis", store: postgresStore({ pool }), cache },
      ],
      close: async () => {
        const keys = await client.keys(`${prefix}*`);
        if (keys.length > 0) await client.del(...keys);
        client.disconnect();
      },
    };
  };
  return [await open(), await open()];
}
