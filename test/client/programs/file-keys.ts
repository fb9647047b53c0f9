/** A key store in a folder, as docs/client.md shows it: each key is a file of its own, which only one process can make. */
import { randomUUID } from "node:crypto";
import { link, open, readFile, rm } from "node:fs/promises";
import { join } from "node:path";

import type { KeyStore } from "../../../src/client/client.js";

export function fileKeys(folder: string): KeyStore {
  const fileOf = (call: string): string => join(folder, encodeURIComponent(call));
  return {
    async keep(call, key) {
      const draft = join(folder, `.${randomUUID()}`);
      const file = await open(draft, "wx");
      await file.writeFile(key);
      await file.sync();
      await file.close();
      // Appears with its whole content or not at all, and only where there is none.
      await link(draft, fileOf(call)).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== "EEXIST") throw error;
      });
      await rm(draft);
      return readFile(fileOf(call), "utf8");
    },
    forget: (call) => rm(fileOf(call), { force: true }),
  };
}
