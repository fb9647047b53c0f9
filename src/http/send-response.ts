/**
 * Writing a stored response on a response of Node. Owns: the order of status, removed and set headers.
 */
import type { ServerResponse } from "node:http";
import { endArguments } from "./chunks.js";
import type { StoredHeader, StoredResponse } from "../core/record.js";
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
  Reflect.apply(end, res, endArguments(response.body));
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
