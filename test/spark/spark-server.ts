/** Spark's Thrift Server with Delta, sized for a small machine, and sessions on it. */
import { openSync } from "node:fs";
import { connect } from "node:net";
import { join, resolve } from "node:path";

import { HiveClient, HiveUtils, auth, connections, thrift } from "hive-driver";

import { hiveStatements } from "../../src/pipeline.js";
import type { RunStatement } from "../../src/pipeline.js";
import { freePort, spawnChild, temporaryDirectory } from "../support/processes.js";
import { waitFor } from "../support/wait-for.js";

const cache = resolve(".cache/spark");
const deltaVersion = "3.3.2";

export interface SparkServer {
  readonly port: number;
  readonly folder: string;
}

export interface SparkSession {
  readonly run: RunStatement;
  close(): Promise<void>;
}

export async function startSpark(home: string): Promise<SparkServer> {
  const folder = temporaryDirectory("spark");
  const port = await freePort();
  const jars = [`delta-spark_2.12-${deltaVersion}.jar`, `delta-storage-${deltaVersion}.jar`];
  const settings = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.sql.warehouse.dir": join(folder, "warehouse"),
    "spark.sql.shuffle.partitions": "1",
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.ui.enabled": "false",
    "spark.sql.session.timeZone": "UTC",
  };
  const log = openSync(join(folder, "log"), "w");
  const child = spawnChild(
    join(home, "bin/spark-submit"),
    [
      "--class",
      "org.apache.spark.sql.hive.thriftserver.HiveThriftServer2",
      // Two threads, so that two statements can be under way at once.
      "--master",
      "local[2]",
      "--driver-memory",
      "1g",
      "--jars",
      jars.map((jar) => join(cache, "jars", jar)).join(","),
      ...Object.entries(settings).flatMap(([name, value]) => ["--conf", `${name}=${value}`]),
      "--hiveconf",
      "hive.server2.thrift.bind.host=127.0.0.1",
      "--hiveconf",
      `hive.server2.thrift.port=${port}`,
      "--hiveconf",
      "hive.server2.authentication=NOSASL",
      "spark-internal",
    ],
    {
      cwd: folder,
      env: { ...process.env, SPARK_HOME: home, SPARK_LOCAL_IP: "127.0.0.1" },
      stdio: ["ignore", log, log],
    },
  );
  const answers = (): Promise<boolean> => {
    if (child.exitCode !== null) throw new Error(`Spark ended; its log is in ${folder}.`);
    return isListening(port);
  };
  await waitFor(answers, { timeoutMs: 120_000, what: "Spark's Thrift Server" });
  return { port, folder };
}

/** The driver's own connect neither resolves nor rejects where nobody listens. */
function isListening(port: number): Promise<boolean> {
  return new Promise((done) => {
    const socket = connect({ host: "127.0.0.1", port });
    socket.once("error", () => done(false));
    socket.once("connect", () => {
      socket.destroy();
      done(true);
    });
  });
}

/** A session on a connection of its own: statements of one session run one after the other. */
export async function openSession(port: number): Promise<SparkSession> {
  const types: ConstructorParameters<typeof HiveUtils>[0] = thrift.TCLIService_types;
  const client = new HiveClient(thrift.TCLIService, types);
  client.on("error", () => undefined);
  await client.connect(
    { host: "127.0.0.1", port, options: {} },
    new connections.TcpConnection(),
    new auth.NoSaslAuthentication(),
  );
  const session = await client.openSession({
    client_protocol: types.TProtocolVersion.HIVE_CLI_SERVICE_PROTOCOL_V10,
  });
  return {
    run: hiveStatements(session, new HiveUtils(types)),
    close: async () => {
      await session.close();
      client.close();
    },
  };
}
