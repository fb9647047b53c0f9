/** The process of one contender. Says its port on standard output, and answers each line on standard input with its usage. */
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { createInterface } from "node:readline";
import { createApp } from "./contenders.js";

const app = await createApp(process.argv[2] ?? "", {
  databaseUrl: process.env["DATABASE_URL"] ?? "",
  redisUrl: process.env["REDIS_URL"] ?? "",
});
const server = createServer({ keepAliveTimeout: 60_000 }, app);
server.listen(0, "127.0.0.1", () => {
  process.stdout.write(`listening ${(server.address() as AddressInfo).port}\n`);
});
createInterface({ input: process.stdin })
  .on("line", () => {
    const { user, system } = process.cpuUsage();
    const usage = { cpu: (user + system) / 1e6, rss: process.memoryUsage.rss() };
    process.stdout.write(`usage ${JSON.stringify(usage)}\n`);
  })
  .on("close", () => process.exit(0));
