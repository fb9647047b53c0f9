/**
 * `npm run example:ads`: an ads platform's clicks, a tenth of them sent more than once, into a live report. ADS_EVENTS (200,000) says how
 * many clicks there are; DATABASE_URL names a Postgres, in which it takes the schema ads_example, and without it one is started.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import { startEmbeddedPostgres } from "../../src/server/embedded.js";
import { describe, runAds } from "./run.js";

const clicks = Number(process.env["ADS_EVENTS"] ?? 200_000);
if (!Number.isInteger(clicks) || clicks < 1 || clicks > 1_000_000_000) {
  console.error("ADS_EVENTS must be a whole number from 1 to 1,000,000,000.");
  process.exit(2);
}

async function withDatabase<T>(work: (url: string) => Promise<T>): Promise<T> {
  const given = process.env["DATABASE_URL"] ?? "";
  if (given !== "") return work(given);
  const dataDir = mkdtempSync(join(tmpdir(), "oncekey-ads-"));
  console.log("Starting a Postgres of its own (DATABASE_URL would name another).");
  const postgres = await startEmbeddedPostgres({ dataDir });
  // Nothing outlives it, whatever ends it.
  const stop = async (): Promise<void> => {
    await postgres.stop();
    rmSync(dataDir, { recursive: true, force: true });
  };
  process.once("SIGINT", () => void stop().finally(() => process.exit(130)));
  try {
    return await work(postgres.url);
  } finally {
    await stop();
  }
}

const wrong = await withDatabase(async (connectionString) => {
  const pool = new pg.Pool({ connectionString });
  // A connection that breaks while it is idle is of no interest; the next statement says so.
  pool.on("error", () => undefined);
  try {
    const result = await runAds({ pool, clicks, say: (line) => console.log(line) });
    console.log(`\n${describe(result).join("\n")}`);
    return result.wrong;
  } finally {
    await pool.end();
  }
});
process.exitCode = wrong.length === 0 ? 0 : 1;
