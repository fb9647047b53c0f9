/**
 * A file of records that were set aside, one JSON object a line. Owns: that a record which is told again, as after a crash, is in it
 * once. Must never take away what is in it.
 */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { open } from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import { createInterface } from "node:readline";
import { usageError } from "./exit.js";

export interface DeadLetter {
  readonly file: string;
  readonly line: number;
  readonly column: string | undefined;
  readonly reason: string;
  readonly original: string;
}

export class DeadLetters {
  readonly #handle: FileHandle;
  readonly #known: Set<string>;
  /** Writes come one after the other, each as a whole. */
  #writing: Promise<void> = Promise.resolve();

  private constructor(handle: FileHandle, known: Set<string>) {
    this.#handle = handle;
    this.#known = known;
  }

  /** @throws CommandError where the file cannot be written. */
  static async open(path: string): Promise<DeadLetters> {
    try {
      const handle = await open(path, "a+");
      const known = new Set<string>();
      const { size } = await handle.stat();
      if (size > 0) {
        const last = Buffer.alloc(1);
        await handle.read(last, 0, 1, size - 1);
        // Whoever wrote it was killed in the middle; what he wrote comes again.
        if (last.toString() !== "\n") await handle.write("\n");
        for await (const line of createInterface({ input: createReadStream(path) }))
          known.add(digest(line));
      }
      return new DeadLetters(handle, known);
    } catch (error) {
      throw usageError(`${path} cannot be written: ${(error as Error).message}`);
    }
  }

  /** Resolves when it is in the file. */
  async add({ file, line, column, reason, original }: DeadLetter): Promise<void> {
    const text = JSON.stringify({ file, line, column: column ?? null, reason, original });
    const name = digest(text);
    if (this.#known.has(name)) return;
    this.#known.add(name);
    const writing = this.#writing.then(() => this.#handle.appendFile(`${text}\n`));
    this.#writing = writing;
    await writing;
  }

  async close(): Promise<void> {
    await this.#writing.catch(() => undefined);
    await this.#handle.datasync().catch(() => undefined);
    await this.#handle.close();
  }
}

function digest(line: string): string {
  return createHash("sha256").update(line).digest("base64").slice(0, 24);
}
