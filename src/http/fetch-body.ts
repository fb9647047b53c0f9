/**
 * The body of a web-standard request. Owns: reading its bytes up to a limit without taking them from the handler, and what of
 * them is compared. Must never let two different bodies compare as equal because one could not be parsed.
 */
import { createHash } from "node:crypto";
import { IdempotencyError } from "../core/errors.js";
import type { BodyContent } from "../core/fingerprint.js";

/** A body as it was found. */
export type FetchBody =
  | { readonly kind: "none" }
  | { readonly kind: "bytes"; readonly bytes: Uint8Array }
  /** Parsed in front of the middleware, and its bytes are gone. */
  | { readonly kind: "form"; readonly form: FormData };

/** What the headers say of a body. */
export interface BodyHeaders {
  readonly contentType: string | undefined;
  readonly contentEncoding: string | undefined;
}

/**
 * Reads the body and leaves it unread for the handler.
 *
 * @throws `request_too_large`, and `body_not_parsed` where somebody has read it before
 */
export async function readWhole(request: Request, maxBytes: number): Promise<FetchBody> {
  if (request.bodyUsed || request.body?.locked === true) throw readBefore();
  if (request.body === null) return { kind: "none" };
  if (Number(request.headers.get("content-length") ?? 0) > maxBytes) throw tooLarge(maxBytes);
  const copy = request.clone().body;
  const bytes = copy === null ? noBytes : await readUpTo(copy, maxBytes);
  return bytes.length === 0 ? { kind: "none" } : { kind: "bytes", bytes };
}

/** Bytes that were kept by somebody else. */
export function keptBody(bytes: Uint8Array, maxBytes: number): FetchBody {
  if (bytes.length > maxBytes) throw tooLarge(maxBytes);
  return bytes.length === 0 ? { kind: "none" } : { kind: "bytes", bytes };
}

const noBytes = new Uint8Array();

async function readUpTo(stream: ReadableStream<Uint8Array>, maxBytes: number): Promise<Uint8Array> {
  const reader = stream.getReader();
  const chunks: Uint8Array[] = [];
  let length = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return chunks.length === 1 ? (chunks[0] as Uint8Array) : Buffer.concat(chunks);
    length += value.length;
    if (length > maxBytes) {
      // Not awaited: the cancelling of one of two branches ends when both are cancelled.
      reader.cancel().catch(() => undefined);
      throw tooLarge(maxBytes);
    }
    chunks.push(value);
  }
}

function tooLarge(maxBytes: number): IdempotencyError {
  return new IdempotencyError("request_too_large", {
    detail: `The body of a request with an Idempotency-Key may have ${maxBytes} bytes.`,
  });
}

function readBefore(): IdempotencyError {
  return new IdempotencyError("body_not_parsed", {
    detail:
      "The body of this Request was read before the idempotency wrapper got it, so that it cannot be compared. Wrap the handler first, or read request.clone() in front of it.",
  });
}

/**
 * Makes the body readable once more, for a handler that is run again. The request stays the same object, since frameworks give
 * theirs more than the standard knows.
 */
export function makeReadableAgain(request: Request, bytes: Uint8Array): void {
  const { url, method, headers } = request;
  const fresh = new Request(url, { method, headers, body: bytes });
  for (const name of bodyMethods) {
    const method_ = (fresh as unknown as Record<string, unknown>)[name];
    if (typeof method_ !== "function") continue;
    const value = (): unknown => Reflect.apply(method_, fresh, []);
    Object.defineProperty(request, name, { value, configurable: true, writable: true });
  }
  Object.defineProperty(request, "body", { get: () => fresh.body, configurable: true });
  Object.defineProperty(request, "bodyUsed", { get: () => fresh.bodyUsed, configurable: true });
}

const bodyMethods = ["arrayBuffer", "blob", "bytes", "clone", "formData", "json", "text"] as const;

/** What of a body is compared: parsed where its type is known, so that spelling does not matter, else by its bytes. */
export async function comparedBody(body: FetchBody, headers: BodyHeaders): Promise<BodyContent> {
  if (body.kind === "none") return body;
  if (body.kind === "form") return comparedForm(body.form, headers);
  const { bytes } = body;
  const { contentType, contentEncoding } = headers;
  if (contentEncoding !== undefined && contentEncoding.toLowerCase() !== "identity")
    return { kind: "bytes", bytes, encoding: contentEncoding.toLowerCase() };
  const asBytes = { kind: "bytes", bytes } as const;
  switch (kindOf(contentType)) {
    case "json":
      return parsedJson(bytes) ?? asBytes;
    case "urlencoded":
      return parsedPairs(bytes) ?? asBytes;
    case "multipart": {
      const form = await parsedForm(bytes, contentType as string);
      return form === undefined ? asBytes : comparedForm(form, headers);
    }
    default:
      return asBytes;
  }
}

type BodyKind = "json" | "urlencoded" | "multipart" | "other";

function kindOf(contentType: string | undefined): BodyKind {
  const mediaType = (contentType ?? "").split(";", 1)[0]?.trim().toLowerCase() ?? "";
  if (mediaType === "application/json" || mediaType.endsWith("+json")) return "json";
  if (mediaType === "application/x-www-form-urlencoded") return "urlencoded";
  return mediaType === "multipart/form-data" ? "multipart" : "other";
}

/** Undefined for what is no text in UTF-8: another two such bodies could become the same replacement characters. */
function exactText(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return undefined;
  }
}

function parsedJson(bytes: Uint8Array): BodyContent | undefined {
  const text = exactText(bytes);
  if (text === undefined) return undefined;
  try {
    return { kind: "value", value: JSON.parse(text) as unknown, raw: bytes };
  } catch {
    return undefined;
  }
}

/** As `express.urlencoded` without nesting: a name that is there twice has a list. */
function parsedPairs(bytes: Uint8Array): BodyContent | undefined {
  const text = exactText(bytes);
  if (text === undefined || !isDecodable(text)) return undefined;
  return { kind: "value", value: grouped([...new URLSearchParams(text)]) };
}

function isDecodable(text: string): boolean {
  try {
    decodeURIComponent(text);
    return true;
  } catch {
    return false;
  }
}

async function parsedForm(bytes: Uint8Array, contentType: string): Promise<FormData | undefined> {
  try {
    return await new Response(bytes, { headers: { "content-type": contentType } }).formData();
  } catch {
    return undefined;
  }
}

async function comparedForm(form: FormData, { contentType }: BodyHeaders): Promise<BodyContent> {
  const texts: [string, string][] = [];
  const files: { field: string; filename: string; mimetype: string; sha256: string }[] = [];
  for (const [field, value] of form) {
    if (typeof value === "string") texts.push([field, value]);
    else {
      const sha256 = createHash("sha256")
        .update(new Uint8Array(await value.arrayBuffer()))
        .digest("base64url");
      files.push({ field, filename: value.name, mimetype: value.type, sha256 });
    }
  }
  const fields = grouped(texts);
  return kindOf(contentType) === "urlencoded"
    ? { kind: "value", value: fields }
    : { kind: "upload", fields, files };
}

/** Without a prototype: a field may have any name. */
function grouped(pairs: readonly (readonly [string, string])[]): Record<string, unknown> {
  const fields = Object.create(null) as Record<string, string | string[]>;
  for (const [name, value] of pairs) {
    const there = fields[name];
    fields[name] = there === undefined ? value : [there, value].flat();
  }
  return fields;
}

/** The body as a steps handler sees it, which may run again without the request. */
export async function storableBody(body: FetchBody, headers: BodyHeaders): Promise<unknown> {
  const compared = await comparedBody(body, headers);
  switch (compared.kind) {
    case "value":
      return compared.value;
    case "bytes": {
      const text = /^\s*text\//i.test(headers.contentType ?? "")
        ? exactText(compared.bytes as Uint8Array)
        : undefined;
      return text ?? Buffer.from(compared.bytes);
    }
    case "upload":
      if (compared.files.length === 0) return compared.fields;
      throw new IdempotencyError("body_not_parsed", {
        detail:
          "A steps route stores its request and takes no files. Store them first and send their names.",
      });
    default:
      return undefined;
  }
}
