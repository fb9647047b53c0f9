/** What the one CHECK of idempotency_keys refuses, rule by rule, and that it keeps what the store writes. */
import { useMigratedDatabase } from "./open-stores.js";

const database = useMigratedDatabase();

const running = {
  scope: "'acme'",
  key: "'k'",
  state: "'running'",
  guarantee: "'at_most_once'",
  claim_id: "gen_random_uuid()",
  token: "1",
  lease_until: "now()",
  fingerprint: "'v1::x'",
  field_hashes: "'{}'",
  method: "'POST'",
  path: "'/'",
  request_id: "'r'",
  created_at: "now()",
};
const windows = {
  lease_until: "NULL",
  completed_at: "now()",
  replay_until: "now()",
  dedupe_until: "now()",
  reap_at: "now()",
};
const response = { status: "201", head: "'{}'", body: "''" };
const completed = { ...running, ...windows, state: "'completed'", ...response };
const steps = { ...running, guarantee: "'steps'", handler: "'h'", request: "'{}'" };
const parked = { ...steps, state: "'parked'", lease_until: "NULL" };

type Row = Readonly<Record<string, string>>;

async function insert(row: Row): Promise<string> {
  const text = `INSERT INTO idempotency_keys (${Object.keys(row).join(", ")}) VALUES (${Object.values(row).join(", ")})`;
  try {
    await database.pool.query(text);
    return "kept";
  } catch (error) {
    const { code, constraint } = error as { code?: string; constraint?: string };
    return `${code} ${constraint}`;
  }
}

beforeEach(async () => {
  await database.pool.query("TRUNCATE idempotency_keys CASCADE");
});

test.each<[name: string, row: Row]>([
  ["running", running],
  ["completed", completed],
  [
    "completed without its response",
    { ...running, ...windows, state: "'completed'", not_stored: "true" },
  ],
  ["forgotten", { ...running, ...windows, state: "'forgotten'" }],
  ["running steps", steps],
  ["parked", { ...parked, next_attempt_at: "now()" }],
  ["set aside", parked],
])("a row is kept that is %s", async (_name, row) => {
  expect(await insert(row)).toBe("kept");
});

test.each<[rule: string, row: Row]>([
  ["scope_is_not_empty", { ...running, scope: "''" }],
  ["key_has_1_to_255_characters", { ...running, key: "repeat('k', 256)" }],
  ["state_is_known", { ...running, state: "'lost'" }],
  ["guarantee_is_known", { ...running, guarantee: "'hope'" }],
  ["attempts_are_counted_from_1", { ...running, attempt: "0" }],
  ["failures_are_counted_from_0", { ...running, failures: "-1" }],
  ["status_is_one_of_http", { ...completed, status: "99" }],
  ["running_has_lease", { ...running, lease_until: "NULL" }],
  ["running_has_lease", { ...completed, lease_until: "now()" }],
  ["only_parked_waits", { ...running, next_attempt_at: "now()" }],
  ["parked_is_steps", { ...running, state: "'parked'", lease_until: "NULL" }],
  ["finished_has_windows", { ...completed, reap_at: "NULL" }],
  ["completed_has_response", { ...completed, body: "NULL" }],
  ["completed_has_response", { ...running, ...response }],
  ["windows_in_order", { ...completed, dedupe_until: "now() - interval '1 day'" }],
  ["steps_has_handler", { ...running, handler: "'h'" }],
  ["unfinished_steps_has_request", { ...steps, request: "NULL" }],
  [
    "unfinished_steps_has_request",
    { ...completed, guarantee: "'steps'", handler: "'h'", request: "'{}'" },
  ],
])("%s is a rule, and is named", async (rule, row) => {
  expect(await insert(row)).toBe(`23514 ${rule}`);
});
