/**
 * COPY … FROM STDIN of bytes that are in memory already. Owns: that a copy is either answered with its tag or fails, and that what
 * it leaves on a connection is known.
 *
 * A `Submittable` as pg-cursor and pg-copy-streams are; of pg's connection it uses what pg-copy-streams uses. A stream in
 * between would cut the bytes and copy them once more for nothing.
 */
import type { PoolClient } from "pg";
import { within } from "../stores/time-limit.js";

interface CopyWire {
  query(text: string): void;
  sendCopyFromChunk(bytes: Buffer): void;
  endCopyFrom(): void;
}

/** The server reads a message whole before it looks at it. */
const chunkBytes = 256 * 1024;

/** False for clients that are not on pg's own connection, such as pg-native. */
export function takesCopy(client: PoolClient): boolean {
  const { connection } = client as { connection?: Partial<CopyWire> };
  return typeof connection?.sendCopyFromChunk === "function";
}

/** Copies the bytes and answers how many rows the server took. Rejects with the server's error, or when the time is up. */
export function copyIn(
  client: PoolClient,
  text: string,
  bytes: Buffer,
  timeoutMs: number,
): Promise<number> {
  const copied = new Promise<number>((resolve, reject) => {
    let rows = -1;
    const query = {
      text,
      callback: (error: unknown): void => {
        if (error === null || error === undefined) resolve(rows);
        else reject(error instanceof Error ? error : new Error("COPY failed", { cause: error }));
      },
      submit: (connection: CopyWire): void => connection.query(text),
      handleCopyInResponse(connection: CopyWire): void {
        for (let at = 0; at < bytes.length; at += chunkBytes)
          connection.sendCopyFromChunk(bytes.subarray(at, at + chunkBytes));
        connection.endCopyFrom();
      },
      handleCommandComplete({ text: tag }: { readonly text: string }): void {
        rows = Number(/^COPY (\d+)$/.exec(tag)?.[1] ?? -1);
      },
      handleError(error: unknown): void {
        this.callback(error);
      },
      handleReadyForQuery(): void {
        this.callback(null);
      },
    };
    const given: unknown = client.query(query as unknown as Parameters<PoolClient["query"]>[0]);
    Promise.resolve(given).catch(reject);
  });
  return within(copied, timeoutMs);
}
