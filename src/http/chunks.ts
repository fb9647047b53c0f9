/**
 * What a handler writes, as bytes. Owns: how Node reads the arguments of `write` and `end`. Knows nothing of recording.
 */

export type Callback = (error?: Error | null) => void;

/** RFC 9110, section 6.4.1: these have no content, whatever the handler wrote. */
export function hasNoBody(status: number): boolean {
  return status === 204 || status === 304 || status < 200;
}

export function joined(chunks: readonly Buffer[]): Buffer {
  return chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks);
}

/** @throws TypeError for what is no text and no bytes, as Node does. */
export function toBuffer(chunk: unknown, encoding: unknown): Buffer {
  if (typeof chunk === "string") {
    return Buffer.from(
      chunk,
      typeof encoding === "string" && Buffer.isEncoding(encoding) ? encoding : "utf8",
    );
  }
  // A copy: the handler may use its buffer again before this one is sent.
  if (chunk instanceof Uint8Array) return Buffer.from(chunk);
  throw Object.assign(
    new TypeError("The chunk of a response must be a string, Buffer or Uint8Array."),
    {
      code: "ERR_INVALID_ARG_TYPE",
    },
  );
}

/** The bytes of a chunk that may be missing. @throws as {@link toBuffer} */
export function bytesOf(chunk: unknown, encoding: unknown): Buffer | undefined {
  return chunk === undefined || chunk === null ? undefined : toBuffer(chunk, encoding);
}

/** Above this one more copy costs more than the second buffer of a write. */
const maxTextBytes = 16_384;

/**
 * The arguments of `end` for a body. Node writes a text together with the head, and bytes beside it; in Latin-1 a text is
 * the same bytes.
 */
export function endArguments(body: Uint8Array): readonly unknown[] {
  if (body.length === 0) return noArguments;
  if (body.length > maxTextBytes || !Buffer.isBuffer(body)) return [body];
  return [body.toString("latin1"), "latin1"];
}

const noArguments: readonly unknown[] = [];

export function pickCallback(encoding: unknown, callback: unknown): Callback | undefined {
  if (typeof encoding === "function") return encoding as Callback;
  return typeof callback === "function" ? (callback as Callback) : undefined;
}
