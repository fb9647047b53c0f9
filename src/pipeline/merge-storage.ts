/**
 * Where Parquet files wait for their MERGE. Owns: their names, and removing what a process that died left behind. Must never
 * remove a file that somebody may still be merging.
 */
import { mkdir, readdir, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";

/** Storage that this process writes and Spark reads. */
export interface MergeStorage {
  /** Writes a file whose name nobody has used, and answers its path as Spark spells it. */
  write(name: string, bytes: Uint8Array): Promise<string>;
  remove(name: string): Promise<void>;
  /** Removes files of this package that are older than this one by more than `ms`, by the storage's own clock. */
  removeOlder(than: string, ms: number): Promise<void>;
}

/** Names begin with this; nothing else in a folder is touched. */
const ownName = /^oncekey-[0-9a-f-]+\.parquet$/;

/**
 * A folder that both sides have mounted: a local disk, NFS, a volume of Databricks.
 *
 * @param options.sparkFolder the same folder as Spark spells it, such as `file:/mnt/batches` or `/Volumes/main/default/batches`.
 *   Default: `folder`
 */
export function folderStorage(options: {
  readonly folder: string;
  readonly sparkFolder?: string;
}): MergeStorage {
  const { folder, sparkFolder = folder } = options;
  return {
    write: async (name, bytes) => {
      await mkdir(folder, { recursive: true });
      await writeFile(join(folder, name), bytes, { flag: "wx" });
      return `${sparkFolder.replace(/\/$/, "")}/${name}`;
    },
    remove: (name) => rm(join(folder, name), { force: true }),
    removeOlder: async (than, ms) => {
      const { mtimeMs } = await stat(join(folder, than));
      for (const name of await readdir(folder)) {
        if (!ownName.test(name)) continue;
        // Another process may remove it at the same time.
        const found = await stat(join(folder, name)).catch(() => undefined);
        if (found !== undefined && found.mtimeMs < mtimeMs - ms)
          await rm(join(folder, name), { force: true });
      }
    },
  };
}
