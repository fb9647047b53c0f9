/** The one write of BEGIN and the claim, and that of the response and COMMIT, on a line that breaks or falls silent. */
import { connect, createServer, type AddressInfo, type Socket } from "node:net";

import { isIdempotencyError } from "../../src/core/errors.js";
import type { KeyRef } from "../../src/core/record.js";
import { writeTogether } from "../../src/stores/one-write.js";
import { startTcpProxy } from "../support/tcp-proxy.js";
import { newRef, windows } from "./open-stores.js";
import {
  begin,
  causeOf,
  completion,
  insertOrder,
  order,
  useSingleConnections,
  type Ground,
} from "./single-connection.js";

const single = useSingleConnections();
let ref: KeyRef;
beforeEach(() => {
  ref = newRef();
});

/**
 * A line that breaks at a byte: `send(at)` passes on so many bytes of the next write, and `reply(at)` all of it and so many bytes
 * of its answer. Resets the client then, and lets the server read what it got.
 */
async function brittleLine(): Promise<{
  url: string;
  send(at: number): void;
  reply(at: number): void;
  lengths(): { sent: number; answered: number };
}> {
  const target = new URL(single.url);
  let cut: { of: "sent" | "answered"; at: number } | undefined;
  const seen = { sent: 0, answered: 0 };
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    const upstream = connect({ host: target.hostname, port: Number(target.port), noDelay: true });
    sockets.add(client).add(upstream);
    const pass = (of: "sent" | "answered", from: Socket, to: Socket): void => {
      from.on("data", (bytes) => {
        const before = seen[of];
        seen[of] += bytes.length;
        if (cut?.of !== of || seen[of] < cut.at) {
          to.write(bytes);
          return;
        }
        to.write(bytes.subarray(0, cut.at - before), () => {
          client.resetAndDestroy();
          upstream.end();
        });
        cut = undefined;
      });
      from.on("error", () => to.destroy());
      from.on("close", () => to.end());
    };
    pass("sent", client, upstream);
    pass("answered", upstream, client);
  });
  await new Promise<void>((done) => void server.listen(0, "127.0.0.1", done));
  single.closeLater(async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise((done) => void server.close(done));
  });
  const url = new URL(single.url);
  url.hostname = "127.0.0.1";
  url.port = String((server.address() as AddressInfo).port);
  const set = (of: "sent" | "answered", at: number): void => {
    Object.assign(seen, { sent: 0, answered: 0 });
    cut = { of, at };
  };
  return {
    url: url.href,
    send: (at) => set("sent", at),
    reply: (at) => set("answered", at),
    lengths: () => ({ ...seen }),
  };
}

describe("a connection that breaks at a byte", () => {
  const sync = 5;
  /** Every byte of the last messages, and every seventh before. */
  const points = (length: number): number[] =>
    Array.from({ length: length + 1 }, (_, at) => at).filter(
      (at) => at > length - 40 || at % 7 === 0,
    );

  async function measured(): Promise<{
    line: Awaited<ReturnType<typeof brittleLine>>;
    here: Ground;
  }> {
    const line = await brittleLine();
    const here = single.ground({ connectionString: line.url });
    await order(here.store, newRef());
    return { line, here };
  }
  const never = Number.MAX_SAFE_INTEGER;

  test("of what opens it: nothing is left open, and the key is free", async () => {
    const { line, here } = await measured();
    line.send(never);
    const probe = await begin(here.store, ref);
    const { sent, answered } = line.lengths();
    await probe.open.rollback();
    const cuts = [
      ...points(sent).map((at) => () => line.send(at)),
      ...points(answered).map((at) => () => line.reply(at)),
    ];
    for (const cut of cuts) {
      const to = newRef();
      await order(here.store, newRef());
      cut();
      const left = await begin(here.store, to).catch(() => undefined);
      await left?.open.rollback();
      line.send(never);
      await single.untilNothingIsOpen();
      expect(await single.stateOfKey(to)).toBeUndefined();
      expect((await order(here.store, to)).kind).toBe("committed");
    }
  });

  test("of what ends it: never rolled back by guess, and settled as what it was", async () => {
    const { line, here } = await measured();
    const settler = single.ground();
    const first = await begin(here.store, ref);
    line.send(never);
    await first.open.complete(first.claim, completion);
    const { sent, answered } = line.lengths();
    expect([sent, answered].every((length) => length > 50)).toBe(true);
    for (const way of ["send", "reply"] as const) {
      for (const at of points(way === "send" ? sent : answered - 1)) {
        const to = newRef();
        const { claim, open, tx } = await begin(here.store, to);
        await insertOrder(tx, to);
        line[way](at);
        const { kind } = await open.complete(claim, completion);
        // Some values have more digits than those of the first write.
        const length = line.lengths().sent;
        line.send(never);
        expect([way, at, kind]).toEqual([way, at, "unknown"]);
        const settled = await settler.store.transactions?.settle(claim, windows);
        const isCommitted = way === "reply" || at >= length - sync;
        expect([way, at, settled?.record.state]).toEqual([
          way,
          at,
          isCommitted ? "completed" : undefined,
        ]);
        expect([await single.orders(to), await single.stateOfKey(to)]).toEqual(
          isCommitted ? [1, "completed"] : [0, undefined],
        );
      }
    }
    await single.untilNothingIsOpen();
  });
});

describe("an answer that does not come", () => {
  test.each([
    ["the store's limit", {}],
    ["pg's query_timeout", { query_timeout: 1_000 }],
  ])("to COMMIT, by %s: unknown, and settled as committed", async (_name, config) => {
    const proxy = await startTcpProxy({ target: single.url });
    single.closeLater(() => proxy.close());
    const here = single.ground({ connectionString: proxy.via(single.url), ...config });
    const settler = single.ground();
    const { claim, open, tx } = await begin(here.store, ref, 1_000);
    await insertOrder(tx, ref);
    const holding = proxy.holdAt(/COMMIT\0/, { reply: true });
    const ending = open.complete(claim, completion);
    const held = await holding;
    expect((await ending).kind).toBe("unknown");
    const settled = await settler.store.transactions?.settle(claim, windows);
    expect(settled?.record.state).toBe("completed");
    held.drop();
    expect(await single.orders(ref)).toBe(1);
  });

  test("to a statement of the handler: what waits behind it is never sent, so that it is no commit", async () => {
    const proxy = await startTcpProxy({ target: single.url });
    single.closeLater(() => proxy.close());
    const here = single.ground({ connectionString: proxy.via(single.url) });
    const { claim, open, tx } = await begin(here.store, ref, 1_000);
    const holding = proxy.holdAt(/INTO orders/, { reply: true });
    const lost = insertOrder(tx, ref).catch(() => "lost");
    const held = await holding;
    const cause = causeOf(await open.complete(claim, completion));
    expect(isIdempotencyError(cause) && cause.code).toBe("store_unavailable");
    held.release();
    await lost;
    await single.untilNothingIsOpen();
    expect([await single.orders(ref), await single.stateOfKey(ref)]).toEqual([0, undefined]);
  });

  test("to whatever is in front of it, until its time is up: it is not sent later", async () => {
    const [here, other] = [single.ground(), single.ground()];
    const [client, locker] = [await here.pool.connect(), await other.pool.connect()];
    await locker.query("SELECT pg_advisory_lock(7)");
    const waiting = client.query("SELECT pg_advisory_lock(7)");
    const insert = { text: "INSERT INTO orders VALUES ($1)", values: [ref.scope] };
    const written = await writeTogether(client, [insert], 50);
    expect(written).toMatchObject({ kind: "failed", answered: 0, isSent: false });
    await locker.query("SELECT pg_advisory_unlock(7)");
    await waiting;
    // Behind it in the client's queue.
    await client.query("SELECT pg_advisory_unlock(7)");
    expect(await single.orders(ref)).toBe(0);
    client.release();
    locker.release();
  });
});
