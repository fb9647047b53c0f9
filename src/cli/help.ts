/** What the help says below the options of each command. */

const url = "postgres://user@localhost/shop";

const helps: Readonly<Record<string, string>> = {
  status: `
Keys whose process died on a plain route stay "unknown" until somebody says what came of them:
they are listed, and \`oncekey resolve\` settles them. Reads the whole table.

Examples:
  oncekey status --database-url ${url}
  DATABASE_URL=${url} oncekey status --json`,
  inspect: `
Shows the state, the claim and its lease, attempts and the last error, recovery points, what operators did,
and the status, headers and size of the response. Values of the request are never shown.

Examples:
  oncekey inspect order-1042
  oncekey inspect order-1042 --scope acct_1:test --show-body`,
  release: `
The same as resolve --not-executed: the next request with this key runs. Say this only when you know
that nothing was done. Refused while the holder lives, and where a response is stored. A steps request keeps
its finished steps, and goes on with the call that nobody knew of.

Example:
  oncekey release order-1042 --scope acct_1:test --why "no such order at the warehouse"`,
  resolve: `
A process died in the middle of the work, and its key answers 409 outcome_unknown. Look into the system that
the work was done in, then say what you found. Refused while the holder lives, and where a response is stored.

FILE holds the reply that retries get: {"status": 201, "headers": {…}, "body": …}. A body that is text is sent
as it is, anything else as JSON.

Examples:
  oncekey resolve order-1042 --completed reply.json --why "charged: ch_1 in the provider's console"
  echo '{"status": 201, "body": {"id": "ch_1"}}' | oncekey resolve order-1042 --completed - --why "charged"
  oncekey resolve order-1042 --not-executed --why "the provider knows no such charge" --by ada`,
  retry: `
For a steps request that failed too often and was set aside, or that waits for its next attempt. It goes on at
its last recovery point, with all its attempts before it.

Example:
  oncekey retry checkout-77 --scope acct_1:test --why "the provider is back"`,
  forget: `
For the erasure of personal data: the response goes from Postgres and, with --redis-url, from the cache. The key
is remembered, so that nothing runs twice; retries are answered 409 key_expired. Run it again when clearing the
cache failed.

Example:
  oncekey forget order-1042 --scope acct_1:test --why "erasure request 7" --redis-url redis://localhost`,
  reap: `
Servers do this by themselves. Each batch is one short transaction that no claim waits for.

Example:
  oncekey reap --limit 500`,
  load: `
FILE is NDJSON or CSV, .gz and .zst too; - is standard input. The key names what happened: a record that comes
again finds its row. Where it was stopped, whatever stopped it, the same command goes on; bytes that have changed
meanwhile are loaded again, which is harmless. Without --version-column, of two records with one key the later
one in the file stays (or with --on-duplicate ignore the earlier one).

A record that cannot be stored ends the load, or is set aside with its line and the reason: --bad-rows.

Examples:
  oncekey load events.ndjson --table events --key event_id
  oncekey load lines.csv.gz --table sales.lines --key order_id,line_id --version-column changed_at --bad-rows bad.ndjson
  zcat -f log*.gz | oncekey load - --format ndjson --table clicks --key id --on-duplicate ignore`,
  doctor: `
Looks at versions, durability, connections, time-outs, the schema, the clock and the epoch; finds out whether a
pooler such as PgBouncer is in between and what does not hold behind it; and looks at Redis. Changes nothing.
Exit code 4 when it has found a problem; warnings alone are 0.

Examples:
  oncekey doctor --database-url ${url} --redis-url redis://localhost
  oncekey doctor --pooler transaction --processes 4 --pool-size 20`,
};

export const exitCodeHelp = `
Exit codes: 0 done; 1 failed or refused; 2 wrong usage; 3 no such key; 4 the doctor found a problem.`;

export function helpOf(command: string): string {
  return `${helps[command] ?? ""}\n${exitCodeHelp}`;
}
