/**
 * Runs kafkaSource against a real broker. Needs Java and Maven, which fetches the broker, as it is configured, into .cache/kafka.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const folder = ".cache/kafka";
const version = "3.9.1";

const lacking = ["java", "mvn"].filter(
  (command) => spawnSync(command, ["-version"], { stdio: "ignore" }).status !== 0,
);
if (lacking.length > 0) {
  console.error(
    `npm run test:kafka needs ${lacking.join(", ")}, which is not here. Nothing was tested.`,
  );
  process.exit(1);
}
if (!existsSync(join(folder, `jars/kafka_2.13-${version}.jar`))) {
  mkdirSync(folder, { recursive: true });
  writeFileSync(
    join(folder, "pom.xml"),
    `<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>test</groupId><artifactId>kafka</artifactId><version>1</version><dependencies><dependency>
<groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>${version}</version>
</dependency></dependencies></project>`,
  );
  const goals = [
    "dependency:copy-dependencies",
    "-DoutputDirectory=jars",
    "-DincludeScope=runtime",
  ];
  const { status } = spawnSync("mvn", ["-q", "-B", ...goals], { cwd: folder, stdio: "inherit" });
  if (status !== 0) process.exit(status ?? 1);
}
/** Six times what it takes on a busy machine: a run that hangs has to say so. */
const mostMs = 600_000;
const { status, error } = spawnSync(
  process.execPath,
  [
    "node_modules/jest/bin/jest.js",
    "--config",
    "test/kafka/jest.config.mjs",
    ...process.argv.slice(2),
  ],
  { stdio: "inherit", timeout: mostMs, killSignal: "SIGKILL" },
);
if (error !== undefined) console.error(`npm run test:kafka did not end: ${error.message}`);
process.exit(status ?? 1);
