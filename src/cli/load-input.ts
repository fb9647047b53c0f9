/**
 * The bytes of a file that is loaded, or of standard input, unpacked. Owns: reading, counting, and giving bytes back that were read
 * too far. Must never end as if the file were over when it was stopped.
 */
import { createReadStream } from "node:fs";
import { realpath, stat } from "node:fs/promises";
import type { Readable } from "node:stream";
import { decodeContent } from "../pipeline.js";
import type { ContentEncoding } from "../pipeline.js";
import { usageError } from "./exit.js";

const pieceBytes = 256 * 1024;
const endings: Readonly<Record<string, ContentEncoding>> = { ".gz": "gzip", ".zst": "zstd" };

export interface Input {
  /** Where the file is, or `-`. */
  readonly path: string;
  /** As it was given, without the ending of an encoding. */
  readonly plainName: string;
  /** Undefined for standard input. */
  readonly bytes: number | undefined;
  /** Bytes read so far, packed as they are. */
  readBytes(): number;
  readonly tape: ByteTape;
  /** Stops reading; whoever waits for bytes is told by an error. */
  stop(): void;
}

/** @throws CommandError for what cannot be read. */
export async function openInput(file: string): Promise<Input> {
  const ending = Object.keys(endings).find((known) => file.endsWith(known)) ?? "";
  const encoding = endings[ending] ?? "identity";
  const { path, bytes } = file === "-" ? { path: "-", bytes: undefined } : await look(file);
  const stream: Readable =
    file === "-" ? process.stdin : createReadStream(file, { highWaterMark: pieceBytes });
  // Whoever reads is told, and while nobody does nobody minds.
  stream.on("error", () => undefined);
  let read = 0;
  const counted = async function* (): AsyncGenerator<Uint8Array> {
    for await (const piece of stream as AsyncIterable<Buffer>) {
      read += piece.length;
      yield piece;
    }
  };
  return {
    path,
    plainName: ending === "" ? file : file.slice(0, -ending.length),
    bytes,
    readBytes: () => read,
    tape: new ByteTape(decodeContent(counted(), encoding)),
    stop: () => void stream.destroy(new Error("reading was stopped")),
  };
}

async function look(file: string): Promise<{ readonly path: string; readonly bytes: number }> {
  try {
    const found = await stat(file);
    if (!found.isDirectory()) return { path: await realpath(file), bytes: found.size };
  } catch (error) {
    throw usageError(`${file} cannot be read: ${(error as Error).message}`);
  }
  throw usageError(`${file} is a folder.`);
}

/** Bytes one after the other, some of which can be given back. */
export class ByteTape {
  readonly #source: AsyncIterator<Uint8Array>;
  /** The next one last. */
  readonly #back: Buffer[] = [];
  #position = 0;

  constructor(source: AsyncIterable<Uint8Array>) {
    this.#source = source[Symbol.asyncIterator]();
  }

  /** How many bytes lie behind. */
  get position(): number {
    return this.#position;
  }

  /** Some bytes, or undefined at the end. */
  async next(): Promise<Buffer | undefined> {
    const piece = this.#back.pop() ?? (await this.#read());
    this.#position += piece?.length ?? 0;
    return piece;
  }

  /** Gives back what was read last. */
  unread(piece: Buffer): void {
    if (piece.length === 0) return;
    this.#position -= piece.length;
    this.#back.push(piece);
  }

  /** This many bytes, or fewer at the end. */
  async take(count: number): Promise<Buffer> {
    const parts: Buffer[] = [];
    for (let missing = count; missing > 0;) {
      const piece = await this.next();
      if (piece === undefined) break;
      parts.push(piece.subarray(0, missing));
      this.unread(piece.subarray(missing));
      missing -= Math.min(missing, piece.length);
    }
    return Buffer.concat(parts);
  }

  async #read(): Promise<Buffer | undefined> {
    for (;;) {
      const { value, done } = await this.#source.next();
      if (done === true) return undefined;
      if (value.length > 0) return Buffer.from(value.buffer, value.byteOffset, value.byteLength);
    }
  }
}
