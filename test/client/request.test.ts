/** What leaves the client: keys, methods and bodies. */
import { createClient, type KeyStore, randomKey, webStorageKeys } from "../../src/client/client.js";
import { longestKey } from "../../src/client/key.js";
import { maxKeyLength, parseKey } from "../../src/core/key.js";
import { waitFor } from "../support/wait-for.js";
import { testClock, useScriptedServer } from "./scripted.js";

const server = useScriptedServer();
const made = { status: 201 };
const failed = { status: 503 };
const fresh = (options: Parameters<typeof createClient>[0] = {}) =>
  createClient({ clock: testClock(), ...options });
const keysSent = () => server.received.map(({ headers }) => headers["idempotency-key"]);

function mapKeys(): KeyStore & { map: Map<string, string> } {
  const map = new Map<string, string>();
  return {
    map,
    keep: (call, key) => map.get(call) ?? (map.set(call, key), key),
    forget: (call) => map.delete(call),
  };
}

describe("methods", () => {
  test.each(["POST", "PATCH", "post", "LOCK"])("%s gets a key", async (method) => {
    server.answer(made);
    await fresh()(server.url, { method });
    expect(keysSent()).toEqual([expect.stringMatching(/^[0-9a-f]{32}$/)]);
  });

  test.each(["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])(
    "%s gets none, and is sent again all the same",
    async (method) => {
      server.answer(failed, "cut", made);
      expect((await fresh()(server.url, { method })).status).toBe(201);
      expect(keysSent()).toEqual([undefined, undefined, undefined]);
    },
  );

  test("DELETE gets the one it is given", async () => {
    server.answer(made);
    await fresh()(server.url, { method: "DELETE", idempotencyKey: "cancel order 7" });
    expect(keysSent()).toEqual(["cancel order 7"]);
  });
});

describe("keys", () => {
  test("are new for each call", async () => {
    server.answer(made);
    const send = fresh();
    for (let count = 0; count < 3; count += 1) await send(server.url, { method: "POST" });
    expect(new Set(keysSent()).size).toBe(3);
  });

  test.each([["order-7"], ['"order 7"'], ["a".repeat(255)]])(
    "by option and by header: %s",
    async (key) => {
      server.answer(failed, made);
      await fresh()(server.url, { method: "POST", idempotencyKey: key });
      expect(keysSent()).toEqual([key, key]);
      server.answer(failed, made);
      await fresh()(server.url, { method: "POST", headers: { "idempotency-key": key } });
      expect(keysSent()).toEqual([key, key]);
    },
  );

  test.each([
    [""],
    [" a"],
    ["a "],
    ['a"b'],
    ['"a'],
    ["é"],
    ["a\nb"],
    ["a".repeat(256)],
    ['"a\\b"'],
  ])("%j is refused before anything is sent, and not shown", async (idempotencyKey) => {
    server.answer(made);
    const refused = fresh()(server.url, { method: "POST", idempotencyKey });
    await expect(refused).rejects.toThrow(/^An idempotency key is 1 to 255 printable ASCII/);
    expect(server.received).toEqual([]);
  });

  test("are read by the server as what they are", () => {
    expect(longestKey).toBe(maxKeyLength);
    for (const key of [randomKey(), "order 7", "a\\b", "~!", "a".repeat(255)]) {
      expect(parseKey([key])).toEqual({ kind: "key", key, sent: key });
    }
    expect(parseKey([`"${"a".repeat(255)}"`])).toMatchObject({ kind: "key" });
  });

  test.each([
    { idempotencyKey: "a", call: "b" },
    { idempotencyKey: "a", headers: { "Idempotency-Key": "a" } },
    { call: "a", headers: { "Idempotency-Key": "b" } },
  ])("more than one identity is refused: %j", async (init) => {
    server.answer(made);
    const keys = mapKeys();
    const refused = fresh({ keys })(server.url, { method: "POST", ...init });
    await expect(refused).rejects.toThrow("Give one of");
    expect([server.received.length, keys.map.size]).toEqual([0, 0]);
  });
});

describe("named calls", () => {
  test("keep their key from before the first attempt until it is forgotten", async () => {
    const keys = mapKeys();
    const send = fresh({ keys, retries: 0 });
    const pay = () => send(server.url, { method: "POST", call: "pay" });
    for (const answer of ["cut" as const, failed, { status: 422 }, made, made]) {
      server.answer(answer);
      await pay().catch(() => undefined);
      expect(keysSent()).toEqual([keys.map.get("pay")]);
    }
    const [first] = keysSent();
    await send.forget("pay");
    expect(keys.map.size).toBe(0);
    await pay();
    expect(keysSent()[0]).toBe(first);
    expect(keysSent()[1]).toMatch(/^[0-9a-f]{32}$/);
    expect(keysSent()[1]).not.toBe(first);
  });

  test("the request leaves only when the key is kept, under the key that is kept", async () => {
    server.answer(made);
    let answer = (_key: string): void => undefined;
    const kept = new Promise<string>((resolve) => (answer = resolve));
    const keep = jest.fn(() => kept);
    const first = fresh({ keys: { keep, forget: () => undefined } })(server.url, {
      method: "POST",
      call: "a",
    });
    await waitFor(() => keep.mock.calls.length === 1);
    // Another call goes there and back while the first one waits for its store.
    await fresh()(server.url, { method: "POST", idempotencyKey: "other" });
    expect(keysSent()).toEqual(["other"]);
    answer("somebody else was first");
    await first;
    expect(keysSent()).toEqual(["other", "somebody else was first"]);
  });

  test("a store that fails ends the call before anything is sent", async () => {
    server.answer(made);
    const keys: KeyStore = {
      keep: () => Promise.reject(new Error("the disk is full")),
      forget: () => undefined,
    };
    const refused = fresh({ keys })(server.url, { method: "POST", call: "a" });
    await expect(refused).rejects.toThrow("the disk is full");
    expect(server.received).toEqual([]);
  });

  test("calls of one name at the same time use one key", async () => {
    server.answer(made);
    const items = new Map<string, string>();
    const storage = {
      getItem: (name: string) => items.get(name) ?? null,
      setItem: (name: string, value: string) => void items.set(name, value),
      removeItem: (name: string) => void items.delete(name),
    };
    const send = fresh({ keys: webStorageKeys(storage) });
    const pay = () => send(server.url, { method: "POST", call: "pay" });
    await Promise.all([pay(), pay(), pay()]);
    expect([...items]).toEqual([["oncekey:pay", keysSent()[0]]]);
    expect(new Set(keysSent()).size).toBe(1);
    await send.forget("pay");
    expect(items.size).toBe(0);
  });

  test.each([
    [{ call: "a" }, {}, "call needs the client's option keys"],
    [{ call: "" }, { keys: mapKeys() }, "call is empty"],
  ])("%j is refused", async (init, options, message) => {
    server.answer(made);
    const refused = fresh(options)(server.url, { method: "POST", ...init });
    await expect(refused).rejects.toThrow(message);
    expect(server.received).toEqual([]);
  });
});

describe("bodies are the same bytes at each attempt", () => {
  const form = new FormData();
  form.set("a", "1");
  form.set("file", new Blob(["x"]), "x.txt");
  test.each<[string, NonNullable<RequestInit["body"]>, RegExp, RegExp]>([
    ["a text", "é", /^text\/plain;charset=utf-8$/i, /^é$/],
    ["bytes", new Uint8Array([65, 66]), /^none$/, /^AB$/],
    ["a buffer", new Uint8Array([65]).buffer, /^none$/, /^A$/],
    ["fields", new URLSearchParams({ a: "1" }), /^application\/x-www-form-urlencoded/, /^a=1$/],
    ["a blob", new Blob(["{}"], { type: "application/json" }), /^application\/json$/, /^\{\}$/],
    ["a form", form, /^multipart\/form-data; boundary=/, /name="file"; filename="x.txt"/],
  ])("%s", async (_name, body, type, text) => {
    server.answer("cut", failed, made);
    await fresh()(server.url, { method: "POST", body });
    const [first, ...others] = server.received;
    expect(server.received.length).toBe(3);
    expect(first?.body.toString()).toMatch(text);
    expect(first?.headers["content-type"] ?? "none").toMatch(type);
    for (const other of others) {
      expect(other.body.equals(first?.body as Buffer)).toBe(true);
      expect(other.headers["content-type"]).toBe(first?.headers["content-type"]);
    }
  });

  test("also when the caller changes its own meanwhile", async () => {
    server.answer(failed, made);
    const body = new Uint8Array([65]);
    const send = fresh({
      fetch: async (...args) => {
        const response = await fetch(...args);
        body[0] = 66;
        return response;
      },
    });
    await send(server.url, { method: "POST", body });
    expect(server.received.map(({ body: sent }) => sent.toString())).toEqual(["A", "A"]);
  });

  test.each(["x", "", undefined])("a Request with body %j", async (body) => {
    server.answer(failed, "cut", made);
    const headers = { "Content-Type": "text/x", "X-A": "1" };
    const init = body === undefined ? {} : { body };
    const request = new Request(`${server.url}/a`, { method: "PATCH", headers, ...init });
    expect((await fresh()(request)).status).toBe(201);
    const sent = {
      method: "PATCH",
      url: "/a",
      headers: { "content-type": "text/x", "x-a": "1" },
      body: Buffer.from(body ?? ""),
    };
    expect(server.received).toMatchObject([sent, sent, sent]);
    expect(new Set(keysSent()).size).toBe(1);
  });

  test.each([
    ["a web stream", () => new Blob(["x"]).stream()],
    ["an async iterable", () => (async function* () {})()],
  ])("%s is refused", async (_name, body) => {
    server.answer(made);
    const init = { method: "POST", body: body() as never, duplex: "half" as const };
    await expect(fresh()(server.url, init)).rejects.toThrow("A stream can be sent only once");
    expect(server.received).toEqual([]);
  });
});

describe("mistakes are told at once", () => {
  test("options, all of them", () => {
    const wrong = { retries: -1, timeoutMs: Number.NaN, maxDelayMs: Infinity, retry: 3 };
    expect(() => createClient(wrong)).toThrow(
      new TypeError(
        "retry is not an option; retries must be 0 to 100; timeoutMs must be 1 to 2147483647; " +
          "maxDelayMs must be 0 to 2147483647.",
      ),
    );
  });

  test("a URL or a header that cannot be sent, before a key is kept", async () => {
    const keys = mapKeys();
    const send = fresh({ keys });
    const init = { method: "POST", call: "a" };
    await expect(send("/relative", init)).rejects.toThrow("Failed to parse URL");
    await expect(send(server.url, { ...init, headers: { "X-A": "\n\0" } })).rejects.toThrow();
    await expect(send(server.url, { ...init, retries: 101 })).rejects.toThrow("retries must be");
    await expect(send(server.url, { ...init, mode: "no-cors" })).rejects.toThrow("no key");
    expect(keys.map.size).toBe(0);
  });
});
