/**
 * Writing a stored response on a response of Node. Owns: the order of status, removed and set headers.
 */
import { ServerResponse } from "node:http";
import { endArguments } from "./chunks.js";
import type { StoredHeader, StoredResponse } from "../core/record.js";
import { sendable } from "./head.js";
import { tabulateResponse } from "./hidden-class.js";

/** Sends a stored response on a response that nothing was written to. */
export function sendResponse(
  res: ServerResponse,
  response: StoredResponse,
  headers: readonly StoredHeader[],
): void {
  tabulateResponse(res);
  putHead(res, response);
  setAll(res, headers);
  const { end } = res as { end: (...args: readonly unknown[]) => unknown };
  // What lies over Node's own may take a text for UTF-8.
  const isNodes = end === (ServerResponse.prototype as { end: unknown }).end;
  Reflect.apply(end, res, isNodes ? endArguments(response.body) : [response.body]);
}

export function putHead(res: ServerResponse, response: StoredResponse): void {
  res.statusCode = response.status;
  // Stored by a version that did not look, one that Node refuses would keep the whole response back.
  const statusMessage = sendable(response.statusMessage);
  if (statusMessage !== undefined) res.statusMessage = statusMessage;
  for (const name of response.removedHeaders ?? []) res.removeHeader(name);
  setAll(res, response.headers);
}

export function setAll(res: ServerResponse, headers: readonly StoredHeader[]): void {
  // A copy of a list: appendHeader adds to it in place, and it may be the one of every later replay.
  for (const [name, value] of headers)
    res.setHeader(name, typeof value === "string" ? value : [...value]);
}
