/**
 * Runs mergeSink against Delta Lake on a real Spark, through its Thrift Server and hive-driver. Needs Java 17 or 11, Python 3 with venv, and
 * Maven; pip and mvn fetch Spark, Delta's jars and an independent reader, as they are configured, into .cache/spark.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const folder = ".cache/spark";
const packages = ["pyspark==3.5.9", "deltalake==1.6.6"];
const delta = "3.3.2";

function missing(command, args) {
  return spawnSync(command, args, { stdio: "ignore" }).status !== 0;
}
function run(command, args, options = {}) {
  const { status } = spawnSync(command, args, { stdio: "inherit", ...options });
  if (status !== 0) process.exit(status ?? 1);
}

const tools = [
  ["java", ["-version"]],
  ["python3", ["-m", "venv", "--help"]],
  ["mvn", ["-v"]],
];
const lacking = tools.filter(([command, args]) => missing(command, args));
if (lacking.length > 0) {
  const names = lacking.map(([command]) => command).join(", ");
  console.error(`npm run test:spark needs ${names}, which is not here. Nothing was tested.`);
  process.exit(1);
}

mkdirSync(folder, { recursive: true });
if (missing(join(folder, "venv/bin/python"), ["-c", "import pyspark, deltalake"])) {
  run("python3", ["-m", "venv", join(folder, "venv")]);
  run(join(folder, "venv/bin/pip"), ["install", "--quiet", ...packages]);
}
if (!existsSync(join(folder, `jars/delta-spark_2.12-${delta}.jar`))) {
  writeFileSync(
    join(folder, "pom.xml"),
    `<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>test</groupId><artifactId>delta</artifactId><version>1</version><dependencies><dependency>
<groupId>io.delta</groupId><artifactId>delta-spark_2.12</artifactId><version>${delta}</version>
</dependency></dependencies></project>`,
  );
  const goals = [
    "dependency:copy-dependencies",
    "-DoutputDirectory=jars",
    "-DincludeScope=runtime",
  ];
  run("mvn", ["-q", "-B", ...goals], { cwd: folder });
}
run(process.execPath, [
  "node_modules/jest/bin/jest.js",
  "--config",
  "test/spark/jest.config.mjs",
  ...process.argv.slice(2),
]);
