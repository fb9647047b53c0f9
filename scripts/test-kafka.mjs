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
const { status } = spawnSync(
  process.execPath,
  [
    "node_modules/jest/bin/jest.js",
    "--config",
    "test/kafka/jest.config.mjs",
    ...process.argv.slice(2),
  ],
  { stdio: "inherit" },
);
process.exit(status ?? 1);
