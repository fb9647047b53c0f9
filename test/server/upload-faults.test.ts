/** Uploads that do not come to their end, and what is left of them: nothing that counts twice, and a key that works again. */
import { randomUUID } from "node:crypto";
import { type ClientRequest, request as httpRequest } from "node:http";

import type pg from "pg";

import { useDatabase } from "../support/databases.js";
import { temporaryDirectory } from "../support/processes.js";
import { type ServerProcess, startServer } from "../support/server-process.js";
import { waitFor } from "../support/wait-for.js";
import { accountA, accountB, get, newKey, post, type RawResponse, useApi } from "./api.js";

// Two servers are started one after the other, and one is waited for to be believed dead.
jest.setTimeout(90_000);
const patiently = { timeoutMs: 30_000 };

const ndjson = { "Content-Type": "application/x-ndjson" };

/** More than a batch for each of the upload's lanes. */
const count = 20_000;

function linesOf(merchant: string): string {
  const lines = Array.from({ length: count }, (_, index) =>
    JSON.stringify({
      event_id: `${merchant}-${index}`,
      merchant_id: merchant,
      amount: 1,
      currency: "eur",
      occurred_at: "2026-03-01T12:00:00Z",
    }),
  );
  return lines.join("\n");
}

/** Sends most of a body and stands still. */
function sendPart(url: string, text: string, headers: Record<string, string>): ClientRequest {
  const length = { "Content-Length": String(text.length) };
  const outgoing = httpRequest(`${url}/v1/events`, {
    method: "POST",
    headers: { ...ndjson, ...length, ...headers },
  });
  outgoing.on("error", () => {});
  outgoing.write(text.slice(0, (text.length * 3) / 4));
  return outgoing;
}

async function storedOf(pool: pg.Pool, merchant: string): Promise<number> {
  const found = await pool.query<{ stored: number }>(
    "select count(*)::int as stored from events where merchant_id = $1",
    [merchant],
  );
  return found.rows[0]?.stored ?? 0;
}

async function revenueOf(
  url: string,
  merchant: string,
  headers: Record<string, string>,
): Promise<unknown> {
  const path = `/v1/revenue/${merchant}?from=2026-03-01&to=2026-03-01`;
  return (await get(url, path, headers)).json()["days"];
}

const wholeDay = [{ date: "2026-03-01", currency: "eur", amount: count, events: count }];

describe("a client that stands still", () => {
  const api = useApi({ ONCEKEY_UPLOAD_IDLE_MS: "2000" });

  test("is answered 408, and its key runs again", async () => {
    const merchant = `m_${randomUUID().slice(0, 8)}`;
    const text = linesOf(merchant);
    const key = { "Idempotency-Key": newKey() };
    const outgoing = sendPart(api.url, text, { ...accountA, ...key });
    const status = await new Promise((resolve) => {
      outgoing.once("response", ({ statusCode }) => resolve(statusCode));
      outgoing.once("close", () => resolve("closed"));
    });
    expect(status).toBe(408);
    await waitFor(async () => {
      const sql = "select from idempotency_keys where key = $1";
      return (await api.pool.query(sql, [key["Idempotency-Key"]])).rowCount === 0;
    }, patiently);
    const before = await storedOf(api.pool, merchant);
    expect(before).toBeLessThan(count);
    // Redis may call it running for a moment after it was given back.
    const again = await waitFor(async () => {
      const response = await post(api.url, "/v1/events", text, { ...ndjson, ...key });
      return response.status === 409 ? undefined : response;
    }, patiently);
    expect(again.json()).toMatchObject({ inserted: count - before, duplicates: before });
    expect(await revenueOf(api.url, merchant, accountA)).toEqual(wholeDay);
  });
});

describe("a server that dies", () => {
  const demo = { Authorization: "Bearer sk_test_demo" };
  const running: ServerProcess[] = [];
  const start = async (): Promise<ServerProcess> => {
    const env = {
      DATABASE_URL: database.url,
      ONCEKEY_LEASE_MS: "1000",
      ONCEKEY_DATA_DIR: temporaryDirectory("upload"),
    };
    const server = await startServer({ env });
    running.push(server);
    return server;
  };
  afterAll(async () => {
    await Promise.all(running.map((server) => server.stop()));
  });
  const database = useDatabase();

  test("in the middle of an upload: the retry goes on without counting twice, and is replayed then", async () => {
    const merchant = "m_crash";
    const text = linesOf(merchant);
    const key = { "Idempotency-Key": newKey() };
    const first = await start();
    const outgoing = sendPart(first.url, text, { ...demo, ...key });
    await waitFor(async () => (await storedOf(database.pool, merchant)) > 0, patiently);
    await first.kill();
    outgoing.destroy();
    const second = await start();
    const upload = (): Promise<RawResponse> =>
      post(second.url, "/v1/events", text, { ...demo, ...ndjson, ...key });
    const before = await storedOf(database.pool, merchant);
    const again = await waitFor(async () => {
      const response = await upload();
      return response.status === 409 ? undefined : response;
    }, patiently);
    expect(before).toBeLessThan(count);
    expect(again.json()).toMatchObject({
      received: count,
      accepted: count,
      inserted: count - before,
      duplicates: before,
    });
    const third = await upload();
    expect(third.headers["idempotent-replayed"]).toBe("true");
    expect(third.bytes.equals(again.bytes)).toBe(true);
    expect(await storedOf(database.pool, merchant)).toBe(count);
    expect(await revenueOf(second.url, merchant, demo)).toEqual(wholeDay);
  });
});

describe("whatever the order", () => {
  const api = useApi();

  /** What is stored of an account, as bytes; and where, which changes with every row that is written once more. */
  async function tableOf(account: string): Promise<{ rows: string; places: string }> {
    const { rows } = await api.pool.query<{ rows: string; places: string }>(
      `select md5(string_agg(concat_ws('|', event_id, merchant_id, amount, currency, occurred_at, version), E'\n'
         order by event_id)) as rows,
       md5(string_agg(concat_ws('|', ctid, xmin, event_id), E'\n' order by event_id)) as places
       from events where account = $1`,
      [account],
    );
    return rows[0] as { rows: string; places: string };
  }

  test("and however often versions are sent, the same rows are there", async () => {
    const merchants = ["m_order_1", "m_order_2"];
    const events = Array.from({ length: 3_000 }, (_, index) => ({
      event_id: `order-${index % 700}-line`,
      merchant_id: merchants[index % 2] as string,
      amount: (index * 7_919) % 10_007,
      currency: index % 5 === 0 ? "usd" : "eur",
      occurred_at: `2026-03-0${1 + (index % 3)}T12:00:00Z`,
      // Of some there are several with the same version.
      version: Math.floor(index / 1_000),
    }));
    const shuffled = events
      .map((event, index) => ({ event, at: (index * 1_231) % 3_001 }))
      .sort((a, b) => a.at - b.at)
      .map(({ event }) => event);
    const sendAll = async (
      all: readonly object[],
      size: number,
      account: Record<string, string>,
    ): Promise<void> => {
      for (let at = 0; at < all.length; at += size) {
        const response = await post(api.url, "/v1/events", all.slice(at, at + size), account);
        expect(response.json()).toMatchObject({ rejected: 0 });
      }
    };
    await sendAll(events, 500, accountA);
    const once = await tableOf("acct_a");
    await sendAll(events, 500, accountA);
    // Not a row was written again.
    expect(await tableOf("acct_a")).toEqual(once);
    await sendAll(shuffled, 700, accountB);
    expect((await tableOf("acct_b")).rows).toBe(once.rows);
    await sendAll(shuffled.toReversed(), 3_000, accountB);
    expect((await tableOf("acct_b")).rows).toBe(once.rows);
    for (const merchant of merchants) {
      const days = await Promise.all(
        [accountA, accountB].map(async (account) => {
          const path = `/v1/revenue/${merchant}?from=2026-03-01&to=2026-03-03`;
          return (await get(api.url, path, account)).json()["days"];
        }),
      );
      expect(days[0]).not.toEqual([]);
      expect(days[1]).toEqual(days[0]);
    }
  });
});
