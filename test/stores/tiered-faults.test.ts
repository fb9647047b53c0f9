import type { Redis } from "ioredis";

import { systemClock } from "../../src/core/clock.js";
import type { Store } from "../../src/core/ports.js";
import type { ClaimRequest } from "../../src/core/record.js";
import { postgresStore } from "../../src/stores/postgres.js";
import { redisCache } from "../../src/stores/redis.js";
import { tiered } from "../../src/stores/tiered.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";
import { waitFor } from "../support/wait-for.js";
import {
  claimed,
  connectRedis,
  created,
  leaseMs,
  newRef,
  newFingerprint,
  newRequest,
  stopLooking,
  useMigratedDatabase,
  windows,
} from "./open-stores.js";

const database = useMigratedDatabase();

let server: RedisServer;
let client: Redis;

beforeEach(async () => {
  server = await startRedis();
  client = await connectRedis(server.url);
});
afterEach(async () => {
  client.disconnect();
  await server.end();
});

const faults: Record<string, () => Promise<unknown> | void> = {
  "is flushed": () => client.flushall(),
  "loses its scripts": () => client.script("FLUSH"),
  "is killed": () => server.kill(),
  hangs: () => server.freeze(),
  "comes back empty": () => server.restart(),
};

/** The life of a key as its clients see it. What a marker may hide is asked until it is not hidden. */
async function live(subject: Store, fault: () => Promise<unknown> | void): Promise<unknown[]> {
  const ref = newRef();
  const seen: unknown[] = [];
  const see = async (request: ClaimRequest): Promise<void> => {
    const answer = await waitFor(async () => {
      const got = await subject.claim(request);
      return got.kind === "locked" ? undefined : got;
    });
    if (answer.kind !== "exists") return void seen.push(answer.kind);
    const { state, fingerprint, response, attempt } = answer.record;
    seen.push([state, fingerprint, response?.status, response?.body.toString(), attempt]);
  };
  const request = newRequest(ref);
  const claim = await claimed(subject.claim(request));
  await fault();
  await see(newRequest(ref, { fingerprint: newFingerprint("v1::two") }));
  await see(request);
  seen.push(await subject.heartbeat([claim], leaseMs));
  seen.push((await subject.complete(claim, { response: created, ...windows })).kind);
  await fault();
  for (const text of ["v1::one", "v1::two"])
    await see(newRequest(ref, { fingerprint: newFingerprint(text) }));
  seen.push(await subject.release(claim));
  await see(newRequest(ref));
  return seen;
}

const habits: Record<string, (subject: Store) => Promise<void> | void> = {
  "is looked at": () => {},
  "is only told": stopLooking,
};
const faultsByHabit = Object.entries(habits).flatMap(([habit, prepare]) =>
  Object.entries(faults).map(([name, fault]) => [habit, name, prepare, fault] as const),
);

test.each(faultsByHabit)(
  "%s and changes no answer when it %s",
  async (_habit, _name, prepare, fault) => {
    const plain = postgresStore({ pool: database.pool });
    const expected = await live(plain, () => {});
    expect(expected).toHaveLength(8);
    const cache = redisCache({ client, budgetMs: 50 });
    const subject = tiered(postgresStore({ pool: database.pool }), {
      cache,
      near: undefined,
      clock: systemClock,
    });
    await subject.find(newRef());
    await prepare(subject);
    expect(await live(subject, fault)).toEqual(expected);
    server.thaw();
    await Promise.all([plain.close(), subject.close()]);
  },
);
