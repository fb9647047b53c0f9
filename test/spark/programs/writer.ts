/** Merges rows into Delta and stops for ever at the point that its plan names, to be killed there. */
import { parquetWriteBuffer } from "hyparquet-writer";

import { folderStorage, mergeSink } from "../../../src/pipeline.js";
import type { SinkRow } from "../../../src/pipeline.js";
import { openSession } from "../spark-server.js";

const plan = JSON.parse(process.argv[2] ?? "{}") as {
  readonly port: number;
  readonly table: string;
  readonly folder: string;
  readonly rows: readonly SinkRow[];
  readonly columns: readonly string[];
  readonly stopAt: "before" | "during";
};
const forEver = (): Promise<never> => {
  setInterval(() => undefined, 60_000);
  return new Promise(() => undefined);
};
const session = await openSession(plan.port);
const sink = mergeSink({
  table: plan.table,
  key: "id",
  columns: plan.columns,
  onDuplicate: "overwrite",
  version: "version",
  engine: {
    dialect: "delta",
    storage: folderStorage({ folder: plan.folder }),
    writeParquet: parquetWriteBuffer,
    run: (text, values) => {
      if (!text.startsWith("MERGE")) return session.run(text, values);
      if (plan.stopAt === "during") void session.run(text, values);
      // The statement is on its way when the next turn of the loop has come.
      setImmediate(() => console.log("stopped"));
      return forEver();
    },
  },
});
await sink.writeBatch(plan.rows);
