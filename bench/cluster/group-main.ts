/** A contender of `bench/http` in several processes on one port, as `node:cluster` shares it. */
import cluster from "node:cluster";
import type { AddressInfo } from "node:net";
import { createServer } from "node:http";
import { createApp } from "../http/contenders.js";

const [contender = "", processes = "1"] = process.argv.slice(2);

async function serve(): Promise<void> {
  const app = await createApp(contender, {
    databaseUrl: process.env["DATABASE_URL"] ?? "",
    redisUrl: process.env["REDIS_URL"] ?? "",
  });
  const server = createServer({ keepAliveTimeout: 60_000 }, app);
  server.listen(0, "127.0.0.1", () => {
    const { port } = server.address() as AddressInfo;
    if (process.send === undefined) process.stdout.write(`listening ${port}\n`);
  });
}

if (processes === "1" || cluster.isWorker) await serve();
else {
  let up = 0;
  cluster.on("listening", (_worker, { port }) => {
    up += 1;
    if (up === Number(processes)) process.stdout.write(`listening ${port}\n`);
  });
  for (let index = 0; index < Number(processes); index += 1) cluster.fork();
}
process.stdin.on("end", () => process.exit(0)).resume();
