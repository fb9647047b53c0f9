/** What is sent again, and what the caller gets, against a server that answers as it is told. */
import { createClient, isNoAnswer } from "../../src/client/client.js";
import { systemClock } from "../../src/client/clock.js";
import { waitFor } from "../support/wait-for.js";
import { testClock, useScriptedServer } from "./scripted.js";

const server = useScriptedServer();
const made = { status: 201, body: { id: "ch_1" } };
const problem = (status: number, code: string, retryable: boolean) => ({
  status,
  headers: { "Content-Type": "application/problem+json" },
  body: { status, code, retryable },
});

function client(options: Parameters<typeof createClient>[0] = {}) {
  const clock = testClock();
  return { clock, send: createClient({ clock, ...options }) };
}
const keysSent = () => server.received.map(({ headers }) => headers["idempotency-key"]);

describe("sent again with the same key", () => {
  test.each([
    ["a connection that is cut", "cut" as const],
    ["a reply that is cut in its body", "cut in the body" as const],
    ["409 in_progress", problem(409, "in_progress", true)],
    ["Stripe's key in use", { status: 409, body: { error: { code: "idempotency_key_in_use" } } }],
    ["425", { status: 425 }],
    ["429", { status: 429 }],
    ["500", { status: 500 }],
    ["503 store_unavailable", problem(503, "store_unavailable", true)],
    ["402 that Stripe wants again", { status: 402, headers: { "Stripe-Should-Retry": "true" } }],
    ["a problem that says so", problem(400, "odd", true)],
    ["HTML of a gateway", { status: 502, headers: { "Content-Type": "text/html" }, body: "<p>" }],
    [
      "JSON that is none",
      { status: 500, headers: { "Content-Type": "application/json" }, body: "{" },
    ],
  ])("%s", async (_name, first) => {
    server.answer(first, first, made);
    const { send, clock } = client();
    const response = await send(server.url, { method: "POST", body: '{"amount":5}' });
    expect([response.status, await response.json()]).toEqual([201, { id: "ch_1" }]);
    expect(keysSent()).toEqual(Array(3).fill(expect.stringMatching(/^[0-9a-f]{32}$/)));
    expect(new Set(keysSent()).size).toBe(1);
    expect(server.received.map(({ body }) => body.toString())).toEqual(
      Array(3).fill('{"amount":5}'),
    );
    expect(clock.pausesMs).toEqual([250, 500]);
  });
});

describe("never sent again", () => {
  test.each([
    ["key_reused", problem(422, "key_reused", false)],
    ["key_reused that claims to be retryable", problem(422, "key_reused", true)],
    [
      "Stripe's mismatch, whatever its headers say",
      {
        status: 400,
        headers: { "Stripe-Should-Retry": "true" },
        body: { error: { code: "idempotency_error" } },
      },
    ],
    ["outcome_unknown", problem(409, "outcome_unknown", false)],
    ["key_expired", problem(409, "key_expired", false)],
    ["response_not_stored", problem(409, "response_not_stored", false)],
    ["a 409 of the API itself", { status: 409, body: { code: "sold_out" } }],
    ["400", { status: 400 }],
    ["408", { status: 408 }],
    ["500 that is stored", { status: 500, headers: { "Idempotent-Replayed": "true" } }],
    ["500 that Stripe wants left", { status: 500, headers: { "Stripe-Should-Retry": "false" } }],
    ["503 of a problem that says no", problem(503, "odd", false)],
    ["302 that is not followed", { status: 302, headers: { Location: "/" } }],
    ["201", made],
  ])("%s", async (_name, only) => {
    server.answer(only, made);
    const { send } = client();
    const response = await send(server.url, { method: "POST", redirect: "manual" });
    expect([response.status, server.received.length]).toEqual([only.status, 1]);
    expect(await response.text()).toBe("body" in only ? JSON.stringify(only.body) : "");
  });
});

describe("when retries are used up", () => {
  test("the last answer is given back, and can be read", async () => {
    server.answer(problem(503, "store_unavailable", true));
    const { send } = client({ retries: 2 });
    const response = await send(server.url, { method: "POST" });
    expect([response.status, response.url, server.received.length]).toEqual([
      503,
      `${server.url}/`,
      3,
    ]);
    expect(await response.json()).toMatchObject({ code: "store_unavailable" });
  });

  test("without one, the error carries the key under which to go on", async () => {
    server.answer("cut");
    const { send } = client({ retries: 9 });
    const error = await send(server.url, { method: "POST", retries: 1 }).catch((e: unknown) => e);
    if (!isNoAnswer(error)) throw error;
    expect(keysSent()).toEqual([error.idempotencyKey, error.idempotencyKey]);
    expect([error.attempts, error instanceof TypeError]).toEqual([2, true]);
    expect(error.cause).toMatchObject({ name: "TypeError" });

    server.answer(made);
    const { idempotencyKey = "" } = error;
    expect((await send(server.url, { method: "POST", idempotencyKey })).status).toBe(201);
    expect(keysSent()).toEqual([idempotencyKey]);
  });
});

describe("pauses", () => {
  test("double up to the longest, and half of them is drawn here", async () => {
    server.answer({ status: 503 });
    const { send, clock } = client({ retries: 6, firstDelayMs: 100, maxDelayMs: 900 });
    await send(server.url, { method: "POST" });
    expect(clock.pausesMs).toEqual([50, 100, 200, 400, 450, 450]);
  });

  test.each([
    ["3", {}, 3_250],
    ["Thu, 01 Jan 2026 00:00:04 GMT", { Date: "" }, 4_250],
    ["Thu, 01 Jan 2026 00:00:04 GMT", { Date: "Thu, 01 Jan 2026 00:00:02 GMT" }, 2_250],
    ["Thu, 01 Jan 1970 00:00:00 GMT", {}, 250],
    ["soon", {}, 250],
    ["-5", {}, 250],
  ])("after Retry-After: %s %j", async (value, headers, pauseMs) => {
    server.answer({ status: 503, headers: { "Retry-After": value, ...headers } }, made);
    const { send, clock } = client();
    await send(server.url, { method: "POST" });
    expect(clock.pausesMs).toEqual([pauseMs]);
  });

  test("a longer one than the longest is not waited for and not cut short", async () => {
    server.answer({ status: 429, headers: { "Retry-After": "31" } }, made);
    const { send, clock } = client();
    const response = await send(server.url, { method: "POST" });
    expect([response.status, response.headers.get("retry-after")]).toEqual([429, "31"]);
    expect(clock.pausesMs).toEqual([]);
  });
});

describe("time and signals", () => {
  test("a reply that does not come in time is lost", async () => {
    server.answer("hang", made);
    const { send, clock } = client();
    const answer = send(server.url, { method: "POST" });
    await waitFor(() => server.received.length === 1);
    clock.expire();
    expect((await answer).status).toBe(201);
    expect(new Set(keysSent()).size).toBe(1);
  });

  test("the real clock ends an attempt", async () => {
    server.answer("hang");
    const send = createClient({ retries: 1, firstDelayMs: 1, timeoutMs: 20 });
    const error = await send(server.url, { method: "POST" }).catch((e: unknown) => e);
    if (!isNoAnswer(error)) throw error;
    expect([error.attempts, (error.cause as Error).name]).toEqual([2, "TimeoutError"]);
  });

  test("a fetch that knows no signals is left behind", async () => {
    const deaf = (() => new Promise<Response>(() => undefined)) as typeof fetch;
    const send = createClient({ fetch: deaf, retries: 0, timeoutMs: 20 });
    await expect(send("/relative", { method: "POST" })).rejects.toThrow("No answer");
  });

  test.each([
    ["and nothing is sent again", 5],
    ["also the last one", 0],
  ])("the caller's abort ends an attempt with its reason, %s", async (_name, retries) => {
    server.answer("hang");
    const { send } = client({ retries });
    const caller = new AbortController();
    const answer = send(server.url, { method: "POST", signal: caller.signal });
    await waitFor(() => server.received.length === 1);
    const reason = new Error("the user has left");
    caller.abort(reason);
    await expect(answer).rejects.toBe(reason);
    expect(server.received.length).toBe(1);
  });

  test("the caller's abort ends a pause, and nothing is sent again", async () => {
    server.answer({ status: 503 });
    const caller = new AbortController();
    const { send } = client({ clock: { ...testClock(), sleep: async () => caller.abort() } });
    const answer = send(server.url, { method: "POST", signal: caller.signal });
    await expect(answer).rejects.toMatchObject({ name: "AbortError" });
    expect(server.received.length).toBe(1);
  });

  test("a real pause ends with its signal", async () => {
    const caller = new AbortController();
    const pauses = [1, 2].map(() => systemClock.sleep(600_000, caller.signal));
    caller.abort();
    const ended = [...pauses, systemClock.sleep(600_000, caller.signal), systemClock.sleep(1)];
    await expect(Promise.all(ended)).resolves.toHaveLength(4);
  });

  test("a signal that is aborted already sends nothing and keeps no key", async () => {
    server.answer(made);
    const keep = jest.fn();
    const { send } = client({ keys: { keep, forget: () => undefined } });
    const request = new Request(server.url, { method: "POST", signal: AbortSignal.abort() });
    await expect(send(request, { call: "a" })).rejects.toMatchObject({ name: "AbortError" });
    expect([server.received.length, keep.mock.calls.length]).toEqual([0, 0]);
  });
});
