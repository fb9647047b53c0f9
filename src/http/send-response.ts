/**
 * Writing a stored response on a response of Node. Owns: the order of status, removed and set headers.
 */
import type { ServerResponse } from "node:http";
import type { StoredHeader, StoredResponse } from "../core/record.js";

/** Sends a stored response on a response that nothing was written to. */
export function sendResponse(
  res: ServerResponse,
  response: StoredResponse,
  headers: readonly StoredHeader[],
): void {
  putHead(res, response);
  setAll(res, headers);
  if (response.body.length === 0) res.end();
  else res.end(response.body);
}

export function putHead(res: ServerResponse, response: StoredResponse): void {
  res.statusCode = response.status;
  if (response.statusMessage !== undefined) res.statusMessage = response.statusMessage;
  for (const name of response.removedHeaders ?? []) res.removeHeader(name);
  setAll(res, response.headers);
}

export function setAll(res: ServerResponse, headers: readonly StoredHeader[]): void {
  for (const [name, value] of headers) res.setHeader(name, value);
}
