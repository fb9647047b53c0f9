/**
 * The fingerprint: a versioned keyed hash of what was asked. Owns: what makes two requests the same request, and the
 * comparison in constant time. Must never keep or report a value of a request.
 */
import { createHash, createHmac, hash, timingSafeEqual } from "node:crypto";
import { canonicalText } from "./canonical-text.js";
import type { FingerprintComparison } from "./decide.js";
import { IdempotencyError } from "./errors.js";
import { exactJson } from "./exact-json.js";
import { FieldHashes } from "./field-hashes.js";
import type { FieldKey } from "./field-hashes.js";
import { toIgnoredFields, withoutFields } from "./ignored-fields.js";
import type { IgnoredFields } from "./ignored-fields.js";
import { inOnePiece } from "./one-piece.js";
import type { StoredFingerprint } from "./record.js";

/** A secret of the fingerprint with the id that is stored beside each digest. */
export interface Secret {
  /** 1 to 32 of A-Z a-z 0-9 _ -; stored in the clear. */
  readonly id: string;
  readonly value: string | Uint8Array;
}

/** What was asked, as far as it counts. */
export interface RequestContent {
  readonly method: string;
  /** Path and query as the client sent them (`originalUrl`), wherever routers are mounted. */
  readonly url: string;
  /** The Content-Type header as sent; parameters do not count (a multipart boundary changes on each retry). */
  readonly contentType: string | undefined;
  readonly body: BodyContent;
  /** The body's bytes as they came, before any Content-Encoding was undone, where they are at hand. */
  readonly sent?: Uint8Array | undefined;
}

export type BodyContent =
  | { readonly kind: "none" }
  /** A body that is there and that nobody has read. It has no fingerprint. */
  | { readonly kind: "unread" }
  /** What the sender's Content-Digest says of a body that nobody has read. */
  | { readonly kind: "digest"; readonly digest: string }
  | {
      readonly kind: "bytes";
      readonly bytes: Uint8Array | string;
      /** The Content-Encoding that the bytes still have. */
      readonly encoding?: string | undefined;
    }
  | { readonly kind: "upload"; readonly fields: unknown; readonly files: readonly UploadedFile[] }
  /** A parsed body. `raw`: its bytes where they were kept, to tell numbers beyond 2^53 apart. */
  | { readonly kind: "value"; readonly value: unknown; readonly raw?: Uint8Array | undefined };

/** A file of a multipart body, in the order of the body. */
export interface UploadedFile {
  readonly field: string;
  readonly filename: string;
  readonly mimetype: string;
  /** Of its content. */
  readonly sha256: string;
}

/** The fingerprint of one request, and the means to compare it with a stored one. */
export interface Fingerprint extends StoredFingerprint {
  /** Compares with a stored fingerprint, under the secret that one was made with. */
  compare(stored: string): FingerprintComparison;
  /** The field hashes as they would be under the secret of a stored fingerprint. */
  fieldHashesUnder(stored: string): string;
}

const version = "v1";
/** Bytes from here on are hashed once, and their hash stands for them: it is needed for the whole, for the field and by each secret. */
const largeBytes = 1024 * 1024;
/** Bodies beyond this are hashed when their request comes. */
const longBody = 16 * 1024;

/**
 * Makes fingerprints under the first secret and compares under all of them. The ignored fields, named as in `differs`, count in
 * none. Throws `body_not_parsed` for a body that nobody has read.
 */
export function createFingerprinter(
  secrets: readonly Secret[],
  ignoredNames: readonly string[] = [],
): (content: RequestContent) => Fingerprint {
  const ignored = toIgnoredFields(ignoredNames);
  const keys = secrets.map(toKey);
  const current = keys[0] ?? plainKey;
  // A digest without a secret needs no secret to be recomputed, also after one was introduced.
  const byId = new Map([...keys, plainKey].map((key) => [key.id, key]));
  return (content) => new RequestFingerprint(readParts(content, ignored), current, byId);
}

class RequestFingerprint implements Fingerprint {
  readonly #key: FingerprintKey;
  readonly #byId: ReadonlyMap<string, FingerprintKey>;
  /** Undefined when there is nothing left to be made of them: a body would be there twice for as long as its handler runs. */
  #parts: Parts | undefined;
  #text: string | undefined;
  #fieldHashes: string | undefined;

  constructor(parts: Parts, key: FingerprintKey, byId: ReadonlyMap<string, FingerprintKey>) {
    this.#parts = parts;
    this.#key = key;
    this.#byId = byId;
    // A long one is not left for the turn in which a store reads a whole batch.
    if (parts.body.length > longBody) this.#text = digestUnder(key, parts);
  }

  get text(): string {
    return this.#text ?? this.#made((parts) => (this.#text = digestUnder(this.#key, parts)));
  }

  get fieldHashes(): string {
    return (
      this.#fieldHashes ?? this.#made((parts) => (this.#fieldHashes = hashFields(this.#key, parts)))
    );
  }

  compare(stored: string): FingerprintComparison {
    if (equalInConstantTime(stored, this.text)) return "same";
    const key = keyOf(stored, this.#byId);
    if (key === undefined) return "unknown_secret";
    if (key === this.#key) return "other";
    const text = this.#made((parts) => digestUnder(key, parts));
    return equalInConstantTime(stored, text) ? "same" : "other";
  }

  fieldHashesUnder(stored: string): string {
    const key = keyOf(stored, this.#byId) ?? this.#key;
    return key === this.#key ? this.fieldHashes : this.#made((parts) => hashFields(key, parts));
  }

  /** What the parts make, which are kept as long as a text, hashes or another secret may need them. */
  #made(make: (parts: Parts) => string): string {
    if (this.#parts === undefined) throw new Error("the parts of a fingerprint are gone");
    const made = make(this.#parts);
    const isDone = this.#text !== undefined && this.#fieldHashes !== undefined;
    if (isDone && this.#byId.size === 1) this.#parts = undefined;
    return made;
  }
}

interface FingerprintKey {
  readonly id: string;
  readonly digest: (text: string, bytes: Uint8Array | string) => string;
  readonly fields: FieldKey;
}

interface Parts extends BodyParts {
  readonly method: string;
  readonly path: string;
  readonly query: readonly (readonly [string, string])[];
  readonly mediaType: string;
}

interface BodyParts {
  readonly bodyKind: "none" | "bytes" | "hashed" | "digest" | "value" | "tagged" | "upload";
  /** Canonical JSON (RFC 8785) of a parsed body, or its bytes. */
  readonly body: string | Uint8Array;
  readonly bodyValue?: unknown;
  readonly encoding?: string | undefined;
  readonly files?: FileTree | undefined;
}

/** Files by the names of their fields; where one field has several, in a list. */
type FileTree = Readonly<Record<string, unknown>>;

const plainKey: FingerprintKey = {
  id: "",
  digest: (text, bytes) =>
    typeof bytes === "string"
      ? hash("sha256", text + bytes, "base64url")
      : createHash("sha256").update(text).update(bytes).digest("base64url"),
  fields: { prefix: "", shared: new Map() },
};

function toKey(secret: Secret): FingerprintKey {
  return {
    id: secret.id,
    digest: (text, bytes) =>
      createHmac("sha256", secret.value).update(text).update(bytes).digest("base64url"),
    fields: {
      prefix: createHmac("sha256", secret.value).update("oncekey field").digest("base64url"),
      shared: new Map(),
    },
  };
}

function readParts(content: RequestContent, ignored: IgnoredFields): Parts {
  const cut = content.url.indexOf("?");
  const path = cut === -1 ? content.url : content.url.slice(0, cut);
  const query = cut === -1 ? [] : sortedQuery(content.url.slice(cut + 1));
  const mediaType = (content.contentType ?? "").split(";", 1)[0]?.trim().toLowerCase() ?? "";
  const { bodyKind, body, bodyValue, encoding, files } = readBody(content.body, ignored.body);
  return {
    method: content.method.toUpperCase(),
    path,
    query: query.filter(([name]) => !ignored.query.has(readable(name))),
    mediaType: bodyKind === "none" ? "" : mediaType,
    bodyKind,
    body,
    bodyValue,
    encoding,
    files,
  };
}

function readBody(content: BodyContent, ignored: readonly string[]): BodyParts {
  switch (content.kind) {
    case "none":
      return { bodyKind: "none", body: "" };
    case "unread":
      throw new IdempotencyError("body_not_parsed");
    case "digest":
      return { bodyKind: "digest", body: content.digest };
    case "bytes": {
      const { bytes, encoding } = content;
      return bytes.length < largeBytes
        ? { bodyKind: "bytes", body: bytes, encoding }
        : { bodyKind: "hashed", body: hash("sha256", bytes, "base64url"), encoding };
    }
    case "upload": {
      const fields = withoutFields(exactJson(content.fields, undefined).value, ignored);
      const kept = withoutFields({ file: treeOf(content.files) }, ignored) as { file?: FileTree };
      const files = kept.file ?? {};
      return {
        bodyKind: "upload",
        body: canonicalText({ fields, files }),
        bodyValue: fields,
        files,
      };
    }
    case "value": {
      const exact = exactJson(content.value, content.raw);
      const value = withoutFields(exact.value, ignored);
      const bodyKind = exact.isTagged ? "tagged" : "value";
      return { bodyKind, body: canonicalText(value), bodyValue: value };
    }
    default:
      return content satisfies never;
  }
}

function treeOf(files: readonly UploadedFile[]): FileTree {
  const byField = new Map<string, unknown[]>();
  for (const { field, ...file } of files) byField.set(field, [...(byField.get(field) ?? []), file]);
  return Object.fromEntries(
    [...byField].map(([field, all]) => [field, all.length === 1 ? all[0] : all]),
  );
}

/** Sorted by name and then value: the order of parameters is no part of what is asked. */
function sortedQuery(search: string): [string, string][] {
  const pairs = search.split("&").filter((pair) => pair !== "");
  return pairs
    .map((pair): [string, string] => {
      const cut = pair.indexOf("=");
      const [name, value] = cut === -1 ? [pair, ""] : [pair.slice(0, cut), pair.slice(cut + 1)];
      return [oneSpelling(name), oneSpelling(value)];
    })
    .sort(([a, x], [b, y]) => compareText(a, b) || compareText(x, y));
}

/**
 * One spelling for all that mean the same text. What is no UTF-8 stays as it was sent: URLSearchParams would turn two different
 * values into the same replacement characters.
 */
function oneSpelling(part: string): string {
  try {
    return encodeURIComponent(decodeURIComponent(part.replaceAll("+", " ")));
  } catch {
    return part;
  }
}

/** For people, in the names of fields that differ. */
function readable(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

function digestUnder(key: FingerprintKey, parts: Parts): string {
  const { method, path, mediaType, bodyKind, query, encoding } = parts;
  // Every part is preceded by its length, so that no two requests run together into one text.
  let text = withLength(method) + withLength(path) + withLength(mediaType) + withLength(bodyKind);
  for (const [name, value] of query) text += withLength(name) + withLength(value);
  // The query has an even count of texts, so that an encoding is none of them.
  if (encoding !== undefined) text += withLength(encoding);
  const count = 4 + 2 * query.length + (encoding === undefined ? 0 : 1);
  return inOnePiece(`${version}:${key.id}:${key.digest(`${count};${text}`, parts.body)}`);
}

function withLength(part: string): string {
  return `${part.length}:${part}`;
}

function hashFields(key: FingerprintKey, parts: Parts): string {
  const fields = new FieldHashes(key.fields);
  fields.addShared("method", parts.method);
  fields.addShared("path", parts.path);
  if (parts.query.length > 0)
    for (const [name, values] of groupQuery(parts.query))
      fields.add(`query.${readable(name)}`, JSON.stringify(values));
  if (parts.mediaType !== "") fields.addShared("content_type", parts.mediaType);
  if (parts.encoding !== undefined) fields.add("content_encoding", parts.encoding);
  if (parts.bodyKind === "value" || parts.bodyKind === "tagged")
    fields.walk("body", parts.bodyValue, 0);
  else if (parts.bodyKind === "upload") addUpload(fields, parts);
  else if (parts.bodyKind !== "none") fields.add("body", parts.body);
  return fields.toJson();
}

/** A form of files alone has no field that could differ. */
function addUpload(fields: FieldHashes, { bodyValue, files = {} }: Parts): void {
  if (Object.keys(bodyValue as object).length > 0) fields.walk("body", bodyValue, 0);
  for (const [field, file] of Object.entries(files)) {
    const name = `body.file.${field}`;
    if (!Array.isArray(file)) fields.add(name, canonicalText(file));
    else
      for (const [index, one] of file.entries())
        fields.add(`${name}[${index}]`, canonicalText(one));
  }
}

function groupQuery(query: Parts["query"]): Map<string, string[]> {
  const groups = new Map<string, string[]>();
  for (const [name, value] of query) groups.set(name, [...(groups.get(name) ?? []), value]);
  return groups;
}

function keyOf(
  stored: string,
  byId: ReadonlyMap<string, FingerprintKey>,
): FingerprintKey | undefined {
  const [storedVersion, id] = stored.split(":", 2);
  return storedVersion === version && id !== undefined ? byId.get(id) : undefined;
}

function equalInConstantTime(a: string, b: string): boolean {
  const left = Buffer.from(a);
  const right = Buffer.from(b);
  return left.length === right.length && timingSafeEqual(left, right);
}
