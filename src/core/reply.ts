/**
 * What a steps handler or a reconcile hook answers, as a response. Owns: the content type that a body implies.
 */
import type { StepsReply } from "./attempt.js";
import type { StoredHeader, StoredResponse } from "./record.js";

/** @throws TypeError for a reply that is no response. */
export function toResponse(reply: StepsReply): StoredResponse {
  const { status, headers = {}, body } = reply ?? {};
  if (!Number.isInteger(status) || status < 200 || status > 599) {
    throw new TypeError("A reply is { status, headers?, body? } with a status from 200 to 599.");
  }
  const [bytes, type] = toBytes(body);
  const given = Object.entries(headers).map(([name, value]): StoredHeader => [name, value]);
  const hasType = given.some(([name]) => name.toLowerCase() === "content-type");
  const implied: StoredHeader[] = hasType || type === undefined ? [] : [["Content-Type", type]];
  return { status, headers: [...implied, ...given], body: bytes };
}

function toBytes(body: unknown): [Uint8Array, string | undefined] {
  if (body === undefined) return [new Uint8Array(0), undefined];
  if (body instanceof Uint8Array) return [body, "application/octet-stream"];
  if (typeof body === "string") return [Buffer.from(body), "text/plain; charset=utf-8"];
  return [Buffer.from(JSON.stringify(body)), "application/json; charset=utf-8"];
}
