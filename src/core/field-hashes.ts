/**
 * A hash for each field of a request, by which a reader is told what differs. Owns: what is a field, and how much of it is kept. Must
 * never keep a value.
 */
import { createHash, hash } from "node:crypto";
import { canonicalText } from "./canonical-text.js";
import { isTaggedNumber } from "./exact-json.js";
import { inOnePiece } from "./one-piece.js";

/** What fields are hashed with. */
export interface FieldKey {
  readonly prefix: string;
  /** Of fields that most requests share. */
  readonly shared: Map<string, string>;
}

/** Fields below this depth, and those after the count, are hashed with their parent. */
const maxFieldDepth = 4;
const maxFields = 64;

/** Hashes of fields, gathered as the JSON text that is stored: an object would cost several times as much, for every request. */
export class FieldHashes {
  readonly #key: FieldKey;
  #json = "";
  #count = 0;

  constructor(key: FieldKey) {
    this.#key = key;
  }

  add(name: string, text: string | Uint8Array): void {
    this.#append(namedHash(this.#key, name, text));
  }

  /** As `add`, for what many requests share. */
  addShared(name: string, text: string): void {
    this.#append(sharedHash(this.#key, name, text));
  }

  /** Adds a value by its members, as deep as fields go. */
  walk(name: string, value: unknown, depth: number): void {
    if (depth === maxFieldDepth || this.#count >= maxFields || !hasFields(value)) {
      this.add(name, canonicalText(value));
    } else if (Array.isArray(value)) {
      for (const [index, item] of value.entries()) this.walk(`${name}[${index}]`, item, depth + 1);
    } else {
      for (const field of Object.keys(value))
        this.walk(`${name}.${field}`, value[field], depth + 1);
    }
  }

  toJson(): string {
    return inOnePiece(`{${this.#json}}`);
  }

  #append(named: string): void {
    this.#json += this.#count === 0 ? named : `,${named}`;
    this.#count += 1;
  }
}

/** A very wide object is one field: naming its members would cost more than it tells. */
function hasFields(value: unknown): value is Readonly<Record<string, unknown>> {
  if (typeof value !== "object" || value === null || isTaggedNumber(value)) return false;
  const size = Array.isArray(value) ? value.length : Object.keys(value).length;
  return size > 0 && size <= maxFields;
}

/** Hashes that are kept of a secret; what is longer, as a path can be, is not. */
const maxShared = 256;
const maxSharedLength = 128;

/** Methods, paths and media types come again and again. */
function sharedHash(key: FieldKey, name: string, text: string): string {
  if (text.length > maxSharedLength) return namedHash(key, name, text);
  const { shared } = key;
  const field = `${name}\0${text}`;
  const known = shared.get(field);
  if (known !== undefined) return known;
  const made = inOnePiece(namedHash(key, name, text));
  // Paths with an id in them are many, and the others soon come again.
  if (shared.size >= maxShared) shared.clear();
  shared.set(field, made);
  return made;
}

/** A member of the JSON text. 48 bits: enough to tell two values apart, too few to be worth guessing from. */
function namedHash({ prefix }: FieldKey, name: string, text: string | Uint8Array): string {
  const start = `${prefix}${name}\0`;
  const digest =
    typeof text === "string"
      ? hash("sha256", start + text, "base64url")
      : createHash("sha256").update(start).update(text).digest("base64url");
  return `${JSON.stringify(name)}:"${digest.slice(0, 8)}"`;
}
