/**
 * Keys for the services that a handler calls. Owns: their derivation, which may never change between two versions.
 */
import { createHash } from "node:crypto";
import { nameOf } from "./key.js";
import type { KeyRef } from "./record.js";

/**
 * A key for a call to another service, the same on every attempt of the same (scope, key) and name, and different for every
 * other: `ok_` and 43 characters. Not keyed by a secret, since it must outlive the rotation of secrets.
 */
export function downstreamKey(ref: KeyRef, name: string): string {
  if (name === "")
    throw new TypeError('downstreamKey needs the name of the call, such as "charge"');
  const text = `oncekey downstream v1;${ref.scope.length}:${ref.key.length};${nameOf(ref)}${name}`;
  return `ok_${createHash("sha256").update(text).digest("base64url")}`;
}
