/**
 * The files of a multipart body, as multer leaves them on a request. Owns: finding them and hashing their content. Must never
 * let a file go by uncounted, nor hold one in memory that is not there already.
 */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { IdempotencyError } from "../core/errors.js";
import type { BodyContent, UploadedFile } from "../core/fingerprint.js";

/** Where multer leaves files: one, a list, or lists by the names of their fields. */
export interface FilesOfRequest {
  readonly file?: unknown;
  readonly files?: unknown;
}

/** A file of multer's memory or disk storage. */
interface MulterFile {
  readonly fieldname: string;
  readonly originalname: string;
  readonly mimetype: string;
  readonly buffer?: unknown;
  readonly path?: unknown;
}

/** The files of a request, in the order of the body. */
export function filesOf({ file, files }: FilesOfRequest): unknown[] {
  const several: unknown[] =
    typeof files === "object" && files !== null ? Object.values(files).flat() : [];
  return file === undefined || file === null ? several : [file, ...several];
}

/** @throws `body_not_parsed` for a file whose content is out of reach */
export async function readUpload(fields: unknown, files: readonly unknown[]): Promise<BodyContent> {
  const read: UploadedFile[] = [];
  // One after the other: an upload of many files must not open all of them at once.
  for (const file of files) read.push(await readFile(file));
  return { kind: "upload", fields, files: read };
}

async function readFile(file: unknown): Promise<UploadedFile> {
  if (!isMulterFile(file)) throw outOfReach();
  const { fieldname, originalname, mimetype, buffer, path } = file;
  const hash = createHash("sha256");
  if (buffer instanceof Uint8Array) hash.update(buffer);
  else if (typeof path === "string") {
    for await (const chunk of createReadStream(path)) hash.update(chunk as Uint8Array);
  } else throw outOfReach();
  return {
    field: fieldname,
    filename: originalname,
    mimetype,
    sha256: hash.digest("base64url"),
  };
}

function isMulterFile(file: unknown): file is MulterFile {
  const { fieldname, originalname, mimetype } = (file ?? {}) as Partial<MulterFile>;
  return [fieldname, originalname, mimetype].every((text) => typeof text === "string");
}

function outOfReach(): IdempotencyError {
  return new IdempotencyError("body_not_parsed", {
    detail:
      "The content of an uploaded file is out of reach. Use multer's memory or disk storage, or give the route a fingerprint function.",
  });
}
