/** A single broker of Kafka, its own controller, on free ports of 127.0.0.1. */
import { randomBytes } from "node:crypto";
import { spawnSync } from "node:child_process";
import { openSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join, resolve } from "node:path";

import { freePort, spawnChild, temporaryDirectory } from "../support/processes.js";
import { waitFor } from "../support/wait-for.js";

/** Starts a broker and answers its address. */
export async function startBroker(): Promise<string> {
  const folder = temporaryDirectory("kafka");
  const [port, controller] = [await freePort(), await freePort()];
  const settings = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.quorum.voters": `1@127.0.0.1:${controller}`,
    listeners: `PLAINTEXT://127.0.0.1:${port},CONTROLLER://127.0.0.1:${controller}`,
    "advertised.listeners": `PLAINTEXT://127.0.0.1:${port}`,
    "controller.listener.names": "CONTROLLER",
    "log.dirs": join(folder, "data"),
    "offsets.topic.num.partitions": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
  };
  const file = join(folder, "server.properties");
  const lines = Object.entries(settings).map(([name, value]) => `${name}=${value}`);
  writeFileSync(file, lines.join("\n"));
  const java = ["-Xmx512m", "-cp", resolve(".cache/kafka/jars/*")];
  const cluster = randomBytes(16).toString("base64url");
  const format = ["kafka.tools.StorageTool", "format", "-t", cluster, "-c", file];
  const made = spawnSync("java", [...java, ...format], { encoding: "utf8", timeout: 60_000 });
  if (made.status !== 0) throw new Error(`${made.stdout}${made.stderr}`);
  const log = openSync(join(folder, "log"), "w");
  const child = spawnChild("java", [...java, "kafka.Kafka", file], { stdio: ["ignore", log, log] });
  const answers = (): Promise<boolean> => {
    if (child.exitCode !== null) throw new Error("the broker ended");
    return new Promise((done) => {
      const socket = connect({ host: "127.0.0.1", port });
      socket.once("error", () => done(false));
      socket.once("connect", () => {
        socket.destroy();
        done(true);
      });
    });
  };
  await waitFor(answers, { timeoutMs: 60_000, what: "the broker" });
  return `127.0.0.1:${port}`;
}
