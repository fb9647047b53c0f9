/** Starts the embedded Postgres on the folder it is given, says where, and stays until it is told to stop. */
import { startEmbeddedPostgres } from "../../../src/server/embedded.js";

const dataDir = process.argv[2] ?? "";
try {
  const postgres = await startEmbeddedPostgres({ dataDir, log: (line) => console.log(line) });
  console.log(`ready ${postgres.pid} ${postgres.url}`);
  process.on("SIGTERM", () => void postgres.stop().then(() => process.exit(0)));
  setInterval(() => {}, 60_000);
} catch (error) {
  console.log(`failed ${String(error)}`);
  process.exit(1);
}
