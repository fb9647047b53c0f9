/**
 * The Content-Digest header (RFC 9530). Owns: which of its digests are known, and holding bytes against them. Must never take a
 * digest for checked that was only read.
 */
import { createHash, timingSafeEqual } from "node:crypto";
import type { Hash } from "node:crypto";
import { ParseError, parseDictionary } from "structured-headers";
import { IdempotencyError } from "./errors.js";

/** The active algorithms of RFC 9530, section 5, and the lengths of their values. The others are not safe against forgery. */
const algorithms = { "sha-256": 32, "sha-512": 64 } as const;
type Algorithm = keyof typeof algorithms;

/** One digest that the sender states. */
export interface ContentDigest {
  readonly algorithm: Algorithm;
  readonly value: Buffer;
}

/** The digests of all lines of the header by algorithms that are known; none where it is absent or malformed. */
export function parseContentDigest(lines: readonly string[]): readonly ContentDigest[] {
  if (lines.length === 0) return [];
  const dictionary = dictionaryOf(lines.join(", "));
  return (Object.keys(algorithms) as Algorithm[]).flatMap((algorithm) => {
    const member: unknown = dictionary.get(algorithm)?.[0];
    if (member === undefined) return [];
    // A member of another type can match nothing, and is not passed over.
    const value = isArrayBuffer(member) ? Buffer.from(member) : Buffer.alloc(0);
    return [{ algorithm, value }];
  });
}

function dictionaryOf(text: string): ReturnType<typeof parseDictionary> {
  try {
    return parseDictionary(text);
  } catch (error) {
    // As RFC 9651, section 4.2, has it: a field that cannot be parsed is ignored.
    if (error instanceof ParseError) return new Map();
    throw error;
  }
}

function isArrayBuffer(value: unknown): value is ArrayBuffer {
  return Object.prototype.toString.call(value) === "[object ArrayBuffer]";
}

/**
 * What stands for a body that nobody has read: the one digest by which a retry is compared.
 *
 * @throws `digest_invalid` where the header has none that could be checked later
 */
export function statedDigest(digests: readonly ContentDigest[]): string {
  const usable = digests.find(({ algorithm, value }) => value.length === algorithms[algorithm]);
  if (usable === undefined)
    throw new IdempotencyError("digest_invalid", {
      detail: "Content-Digest has no usable sha-256 or sha-512 member.",
    });
  return `${usable.algorithm}=:${usable.value.toString("base64")}:`;
}

/** Takes bytes as they come and holds them against every digest at the end. */
export class DigestCheck {
  readonly #stated: readonly { readonly value: Buffer; readonly hash: Hash }[];

  constructor(digests: readonly ContentDigest[]) {
    this.#stated = digests.map(({ algorithm, value }) => ({
      value,
      hash: createHash(algorithm.replace("-", "")),
    }));
  }

  update(bytes: Uint8Array): this {
    for (const { hash } of this.#stated) hash.update(bytes);
    return this;
  }

  /** @throws `digest_invalid` unless the bytes are those that were stated. To be called once. */
  end(): void {
    const isSame = this.#stated.every(({ value, hash }) => {
      const real = hash.digest();
      return real.length === value.length && timingSafeEqual(real, value);
    });
    if (!isSame) throw new IdempotencyError("digest_invalid");
  }
}
