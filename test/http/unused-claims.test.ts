/** Claims that come when their handler cannot run any more: what is given back of them, and what is waited for. */
import { once } from "node:events";
import { createServer as createHttp2Server, connect } from "node:http2";
import type { AddressInfo } from "node:net";

import request from "supertest";

import { createIdempotency } from "../../src/index.js";
import type { Store } from "../../src/core/ports.js";
import { memoryStore } from "../../src/stores/memory.js";
import { createManualClock } from "../support/manual-clock.js";
import { waitFor } from "../support/wait-for.js";
import { keyedApp } from "./keyed-app.js";

interface Gate {
  readonly opened: Promise<void>;
  readonly open: () => void;
}

function gate(): Gate {
  let open: () => void = () => undefined;
  const opened = new Promise<void>((resolve) => (open = resolve));
  return { opened, open };
}

const find = (store: Store, key: string) => store.find({ scope: "global", key });

test("a request that was answered in front while its key was claimed leaves the key free", async () => {
  const memory = memoryStore();
  const { opened, open } = gate();
  const store: Store = {
    ...memory,
    claim: async (asked) => {
      await opened;
      return memory.claim(asked);
    },
  };
  let runs = 0;
  let isInTime = false;
  const { post } = keyedApp((_req, res) => void res.json({ run: (runs += 1) }), {
    options: { store },
    front: (_req, res, next) => {
      next();
      if (!isInTime) setImmediate(() => res.status(503).send("too slow"));
    },
  });
  await post("late").expect(503, "too slow");
  open();
  isInTime = true;
  await waitFor(async () => (await find(memory, "late")) === undefined);
  await post("late").expect(200, { run: 1 });
});

test("a response that cannot be recorded leaves the key free", async () => {
  const store = memoryStore();
  const idempotent = createIdempotency({ store, scope: "global" });
  const errors: unknown[] = [];
  const server = createHttp2Server((req, res) => {
    req.resume().on("end", () => {
      idempotent()(req as never, res as never, (error) => {
        errors.push(error);
        res.end();
      });
    });
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const session = connect(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  const stream = session.request({ ":method": "POST", ":path": "/", "idempotency-key": "http2" });
  stream.resume().end();
  await once(stream, "end");
  session.close();
  server.close();
  expect(errors).toEqual([expect.any(TypeError)]);
  expect(await find(store, "http2")).toBeUndefined();
});

describe("a take-over that nobody uses", () => {
  /** A key whose first process is dead, and whose lease is over. */
  async function abandoned(key: string): Promise<Store> {
    const clock = createManualClock();
    const store = memoryStore({ clock });
    const dead = keyedApp(() => undefined, { options: { store, afterCrash: "rerun" } });
    const server = dead.app.listen(0, "127.0.0.1");
    const sent = request(server).post("/orders").set("Idempotency-Key", key).send({ amount: 1 });
    const cut = sent.then(
      () => "answered",
      (error: Error) => error.message,
    );
    await waitFor(async () => (await find(store, key)) !== undefined);
    server.closeAllConnections();
    server.close();
    expect(await cut).toBe("socket hang up");
    await clock.advance(60_000);
    return store;
  }

  test("because it came too late leaves the record of what was begun", async () => {
    const inner = await abandoned("too-late");
    const { opened, open } = gate();
    let isBack = false;
    const store: Store = {
      ...inner,
      takeOver: async (asked, observed) => {
        const answer = await inner.takeOver(asked, observed);
        await opened;
        setImmediate(() => (isBack = true));
        return answer;
      },
    };
    const { post } = keyedApp((_req, res) => void res.json({}), {
      options: { store, claimTimeoutMs: 50, afterCrash: "rerun" },
    });
    await post("too-late", { amount: 2 }).expect(422);
    await post("too-late", { amount: 1 }).expect(503);
    open();
    await waitFor(() => isBack);
    expect((await post("too-late", { amount: 2 })).body.code).toBe("key_reused");
  });

  test("because its request was answered in front leaves it too", async () => {
    const inner = await abandoned("in-front");
    const { opened, open } = gate();
    let isBack = false;
    const store: Store = {
      ...inner,
      takeOver: async (asked, observed) => {
        await opened;
        const answer = await inner.takeOver(asked, observed);
        setImmediate(() => (isBack = true));
        return answer;
      },
    };
    let runs = 0;
    const { post } = keyedApp((_req, res) => void res.json({ run: (runs += 1) }), {
      options: { store, afterCrash: "rerun" },
      front: (_req, res, next) => {
        next();
        setImmediate(() => {
          if (!res.headersSent) res.status(503).send("too slow");
        });
      },
    });
    await post("in-front", { amount: 1 }).expect(503, "too slow");
    open();
    await waitFor(() => isBack);
    expect((await find(inner, "in-front"))?.record.attempt).toBe(2);
    expect(runs).toBe(0);
  });
});

test("close waits for what a claim under way begins", async () => {
  const memory = memoryStore();
  const { opened, open } = gate();
  let isClaimed = false;
  let isClosed = false;
  const store: Store = {
    ...memory,
    claim: async (asked) => {
      const answer = await memory.claim(asked);
      isClaimed = true;
      await opened;
      return answer;
    },
    complete: (claim, completion) => {
      if (isClosed) throw new Error("the store is closed");
      return memory.complete(claim, completion);
    },
    close: async () => {
      isClosed = true;
    },
  };
  const { post, idempotent } = keyedApp((_req, res) => void res.json({ run: 1 }), {
    options: { store },
  });
  const answered = post("closing").then(({ status, headers }) => [
    status,
    headers["idempotency-stored"],
  ]);
  await waitFor(() => isClaimed);
  const closed = idempotent.close();
  await new Promise(setImmediate);
  open();
  await closed;
  expect(await answered).toEqual([200, undefined]);
  expect((await find(memory, "closing"))?.record.state).toBe("completed");
});
