/**
 * The fingerprint: a versioned keyed hash of what was asked. Owns: what makes two requests the same request, and the
 * comparison in constant time. Must never keep or report a value of a request.
 */
import { createHash, createHmac, hash, timingSafeEqual } from "node:crypto";
import canonicalizeModule from "canonicalize";
import type { FingerprintComparison } from "./decide.js";
import { IdempotencyError } from "./errors.js";
import { exactJson, isTaggedNumber } from "./exact-json.js";
import { toIgnoredFields, withoutFields } from "./ignored-fields.js";
import type { IgnoredFields } from "./ignored-fields.js";
import { inOnePiece } from "./one-piece.js";

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
export interface Fingerprint {
  readonly text: string;
  readonly fieldHashes: Readonly<Record<string, string>>;
  /** Compares with a stored fingerprint, under the secret that one was made with. */
  compare(stored: string): FingerprintComparison;
  /** The field hashes as they would be under the secret of a stored fingerprint. */
  fieldHashesUnder(stored: string): Readonly<Record<string, string>>;
}

/** The package is CommonJS and its types say that it is not. */
const canonicalize = canonicalizeModule as unknown as (value: unknown) => string | undefined;

const version = "v1";
/** Fields below this depth, and those after the count, are hashed with their parent. */
const maxFieldDepth = 4;
const maxFields = 64;
/** Bytes from here on are hashed once, and their hash stands for them: it is needed for the whole, for the field and by each secret. */
const largeBytes = 1024 * 1024;

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
  readonly text: string;
  readonly #parts: Parts;
  readonly #key: FingerprintKey;
  readonly #byId: ReadonlyMap<string, FingerprintKey>;
  #fieldHashes: Readonly<Record<string, string>> | undefined;

  constructor(parts: Parts, key: FingerprintKey, byId: ReadonlyMap<string, FingerprintKey>) {
    this.#parts = parts;
    this.#key = key;
    this.#byId = byId;
    this.text = digestUnder(key, parts);
  }

  get fieldHashes(): Readonly<Record<string, string>> {
    return (this.#fieldHashes ??= hashFields(this.#key, this.#parts));
  }

  compare(stored: string): FingerprintComparison {
    if (equalInConstantTime(stored, this.text)) return "same";
    const key = keyOf(stored, this.#byId);
    if (key === undefined) return "unknown_secret";
    if (key === this.#key) return "other";
    return equalInConstantTime(stored, digestUnder(key, this.#parts)) ? "same" : "other";
  }

  fieldHashesUnder(stored: string): Readonly<Record<string, string>> {
    return hashFields(keyOf(stored, this.#byId) ?? this.#key, this.#parts);
  }
}

interface FingerprintKey {
  readonly id: string;
  readonly digest: (text: string, bytes: Uint8Array | string) => string;
  readonly fieldPrefix: string;
  /** Of fields that most requests share. */
  readonly shared: Map<string, string>;
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
  readonly files?: FileTree;
}

/** Files by the names of their fields; where one field has several, in a list. */
type FileTree = Readonly<Record<string, unknown>>;

const plainKey: FingerprintKey = {
  id: "",
  digest: (text, bytes) =>
    typeof bytes === "string"
      ? hash("sha256", text + bytes, "base64url")
      : createHash("sha256").update(text).update(bytes).digest("base64url"),
  fieldPrefix: "",
  shared: new Map(),
};

function toKey(secret: Secret): FingerprintKey {
  return {
    id: secret.id,
    digest: (text, bytes) =>
      createHmac("sha256", secret.value).update(text).update(bytes).digest("base64url"),
    fieldPrefix: createHmac("sha256", secret.value).update("oncekey field").digest("base64url"),
    shared: new Map(),
  };
}

function readParts(content: RequestContent, ignored: IgnoredFields): Parts {
  const cut = content.url.indexOf("?");
  const path = cut === -1 ? content.url : content.url.slice(0, cut);
  const query = cut === -1 ? [] : sortedQuery(content.url.slice(cut + 1));
  const mediaType = (content.contentType ?? "").split(";", 1)[0]?.trim().toLowerCase() ?? "";
  const body = readBody(content.body, ignored.body);
  return {
    method: content.method.toUpperCase(),
    path,
    query: query.filter(([name]) => !ignored.query.has(readable(name))),
    mediaType: body.bodyKind === "none" ? "" : mediaType,
    ...body,
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
  const head = [method, path, mediaType, bodyKind, ...query.flat()];
  // The query has an even count of texts, so that an encoding is none of them.
  if (encoding !== undefined) head.push(encoding);
  // Every part is preceded by its length, so that no two requests run together into one text.
  const text = head.map((part) => `${part.length}:${part}`).join("");
  return inOnePiece(`${version}:${key.id}:${key.digest(`${head.length};${text}`, parts.body)}`);
}

function hashFields(key: FingerprintKey, parts: Parts): Record<string, string> {
  const hashes: Record<string, string> = {};
  let count = 0;
  const add = (name: string, text: string | Uint8Array): void => {
    count += 1;
    hashes[name] = shortHash(key.fieldPrefix, name, text);
  };
  const walk = (name: string, value: unknown, depth: number): void => {
    const children =
      depth < maxFieldDepth && count < maxFields ? childrenOf(name, value) : undefined;
    if (children === undefined) add(name, canonicalText(value));
    else for (const [childName, child] of children) walk(childName, child, depth + 1);
  };
  const addShared = (name: string, text: string): void => {
    count += 1;
    hashes[name] = sharedHash(key, name, text);
  };
  addShared("method", parts.method);
  addShared("path", parts.path);
  for (const [name, values] of groupQuery(parts.query))
    add(`query.${readable(name)}`, JSON.stringify(values));
  if (parts.mediaType !== "") addShared("content_type", parts.mediaType);
  if (parts.encoding !== undefined) add("content_encoding", parts.encoding);
  if (["bytes", "hashed", "digest"].includes(parts.bodyKind)) add("body", parts.body);
  else if (parts.bodyKind !== "none" && !isEmptyForm(parts)) walk("body", parts.bodyValue, 0);
  for (const [name, file] of Object.entries(parts.files ?? {})) addFiles(name, file, add);
  return hashes;
}

/** A form of files alone has no field that could differ. */
function isEmptyForm({ bodyKind, bodyValue }: Parts): boolean {
  return bodyKind === "upload" && Object.keys(bodyValue as object).length === 0;
}

function addFiles(field: string, file: unknown, add: (name: string, text: string) => void): void {
  const name = `body.file.${field}`;
  if (!Array.isArray(file)) add(name, canonicalText(file));
  else for (const [index, one] of file.entries()) add(`${name}[${index}]`, canonicalText(one));
}

function groupQuery(query: Parts["query"]): Map<string, string[]> {
  const groups = new Map<string, string[]>();
  for (const [name, value] of query) groups.set(name, [...(groups.get(name) ?? []), value]);
  return groups;
}

function childrenOf(name: string, value: unknown): [string, unknown][] | undefined {
  if (typeof value !== "object" || value === null || isTaggedNumber(value)) return undefined;
  const children: [string, unknown][] = Array.isArray(value)
    ? value.map((item, index): [string, unknown] => [`${name}[${index}]`, item])
    : Object.entries(value).map(([field, item]): [string, unknown] => [`${name}.${field}`, item]);
  // A very wide object is one field: naming its members would cost more than it tells.
  return children.length === 0 || children.length > maxFields ? undefined : children;
}

/** Hashes that are kept of a secret; what is longer, as a path can be, is not. */
const maxShared = 256;
const maxSharedLength = 128;

/** Methods, paths and media types come again and again. */
function sharedHash({ fieldPrefix, shared }: FingerprintKey, name: string, text: string): string {
  if (text.length > maxSharedLength) return shortHash(fieldPrefix, name, text);
  const field = `${name}\0${text}`;
  const known = shared.get(field);
  if (known !== undefined) return known;
  const made = shortHash(fieldPrefix, name, text);
  // Paths with an id in them are many, and the others soon come again.
  if (shared.size >= maxShared) shared.clear();
  shared.set(field, made);
  return made;
}

/** 48 bits: enough to tell two values apart, too few to be worth guessing from. */
function shortHash(prefix: string, name: string, text: string | Uint8Array): string {
  if (typeof text === "string")
    return hash("sha256", `${prefix}${name}\0${text}`, "base64url").slice(0, 8);
  return createHash("sha256")
    .update(`${prefix}${name}\0`)
    .update(text)
    .digest("base64url")
    .slice(0, 8);
}

function canonicalText(value: unknown): string {
  // The canonical form of a text is that of JSON (RFC 8785, section 3.2.2.2), and most fields are texts.
  if (typeof value === "string") return JSON.stringify(value);
  try {
    return inOnePiece(canonicalize(value) ?? "");
  } catch (cause) {
    throw new IdempotencyError("body_not_exact", {
      detail: "The parsed body has no canonical JSON form.",
      cause,
    });
  }
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
