/** Events that are none: each is told with its line and reason, costs its neighbours nothing, and is not stored. */
import { accountA, send, useApi } from "./api.js";
import { daysFrom, event, ndjson, newMerchant, uploadTo } from "./event-uploads.js";

const api = useApi();
const upload = uploadTo(api);
const daysOf = daysFrom(api);

test("what is wrong is told by line and field, and everything else is stored", async () => {
  const merchant = newMerchant();
  const good = event(merchant);
  const id = String(good["event_id"]);
  const bad = (changes: object): string => JSON.stringify(event(merchant, changes));
  const lines: [string, unknown[]][] = [
    ["{", ["not_json", undefined]],
    ["[]", ["wrong_type", undefined]],
    ["null", ["wrong_type", undefined]],
    [bad({ event_id: undefined }), ["missing", "event_id"]],
    [bad({ event_id: "" }), ["missing", "event_id"]],
    [bad({ event_id: 17 }), ["id_weak", "event_id"]],
    [bad({ event_id: "17" }), ["id_weak", "event_id"]],
    [bad({ event_id: "1767225600123" }), ["id_weak", "event_id"]],
    [bad({ event_id: "2026-03-01T12:00:00.123Z" }), ["id_weak", "event_id"]],
    [bad({ event_id: true }), ["wrong_type", "event_id"]],
    [bad({ event_id: "x".repeat(256) }), ["out_of_range", "event_id"]],
    [bad({ event_id: `${id}\0` }), ["nul", "event_id"]],
    [bad({ event_id: `${id}\ud800` }), ["not_storable", "event_id"]],
    [`{"event_id":"a\0"}`, ["nul", undefined]],
    [bad({ merchant_id: 5 }), ["wrong_type", "merchant_id"]],
    [bad({ amount: "100" }), ["wrong_type", "amount"]],
    [bad({ amount: 1.5 }), ["wrong_type", "amount"]],
    [bad({ amount: 1e12 + 1 }), ["out_of_range", "amount"]],
    [bad({ amount: null }), ["missing", "amount"]],
    [bad({}).replace('"amount":100', '"amount":9007199254740993'), ["number_not_exact", "amount"]],
    [
      bad({}).replace('"amount":100', '"amount":100.00000000000000001'),
      ["number_not_exact", "amount"],
    ],
    [`${bad({}).slice(0, -1)},"version":9007199254740993}`, ["number_not_exact", "version"]],
    [`${bad({}).slice(0, -1)},"version":1e400}`, ["number_not_exact", "version"]],
    [bad({ currency: "euro" }), ["wrong_type", "currency"]],
    [bad({ occurred_at: "2026-03-01T12:00:00" }), ["wrong_type", "occurred_at"]],
    [bad({ occurred_at: 1_767_225_600 }), ["wrong_type", "occurred_at"]],
    [bad({ occurred_at: "2026-02-29T12:00:00Z" }), ["out_of_range", "occurred_at"]],
    [bad({ occurred_at: "2026-03-01T24:00:00Z" }), ["out_of_range", "occurred_at"]],
    [bad({ version: -1 }), ["out_of_range", "version"]],
    [bad({ verison: 1 }), ["unknown_field", "verison"]],
    [bad({ event_id: "y".repeat(1_100_000) }), ["line_too_long", undefined]],
  ];
  const mixed = lines.flatMap(([line]) => [JSON.stringify(event(merchant)), line]);
  const { status, json } = await upload(mixed);
  const summary = json() as {
    errors: { line: number; code: string; field?: string; reason: string }[];
  };
  expect([status, summary]).toMatchObject([
    200,
    {
      received: 2 * lines.length,
      accepted: lines.length,
      inserted: lines.length,
      rejected: lines.length,
      has_more_errors: false,
    },
  ]);
  expect(summary.errors.map(({ line, code, field }) => [line, code, field])).toEqual(
    lines.map(([, [code, field]], index) => [2 * index + 2, code, field]),
  );
  expect(await daysOf(merchant)).toEqual([`2026-03-01 eur ${100 * lines.length}/${lines.length}`]);
  // No value of the sender's in what is told, nor in the log.
  expect(JSON.stringify(summary)).not.toContain(id);
  expect(api.log).not.toContain(id);
});

test("bytes that are no UTF-8 cost their line", async () => {
  const merchant = newMerchant();
  const line = JSON.stringify(event(merchant, { event_id: "caf#" }));
  const [before = "", after = ""] = line.split("#");
  const body = Buffer.concat([
    Buffer.from(`${JSON.stringify(event(merchant))}\n${before}`),
    Buffer.from([0xe9]),
    Buffer.from(`${after}\n${JSON.stringify(event(merchant))}`),
  ]);
  const response = await send(api.url, "/v1/events", {
    headers: Object.entries({ ...accountA, ...ndjson, "Content-Length": String(body.length) }),
    body,
  });
  expect(response.json()).toMatchObject({
    inserted: 2,
    errors: [{ line: 2, code: "invalid_utf8" }],
  });
});

test("a line of 64 MB is passed over, and told", async () => {
  const merchant = newMerchant();
  const body = Buffer.concat([
    Buffer.from(`${JSON.stringify(event(merchant))}\n`),
    Buffer.alloc(64 * 1024 * 1024, "x"),
    Buffer.from(`\n${JSON.stringify(event(merchant))}\n?\n`),
  ]);
  const headers = { ...accountA, ...ndjson, "Content-Length": String(body.length) };
  const response = await send(api.url, "/v1/events", { headers: Object.entries(headers), body });
  expect(response.json()).toMatchObject({
    received: 4,
    inserted: 2,
    errors: [
      { line: 2, code: "line_too_long" },
      { line: 4, code: "not_json" },
    ],
  });
});

test("more errors than are told are counted", async () => {
  const summary = (await upload(Array.from({ length: 250 }, () => "?"))).json();
  expect(summary).toMatchObject({ received: 250, rejected: 250, has_more_errors: true });
  expect(summary["errors"]).toHaveLength(100);
});
