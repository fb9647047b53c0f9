/**
 * Answering a client whose handler goes on. Owns: a second response on the connection of the first, which ends with it.
 */
import { ServerResponse } from "node:http";
import type { StoredHeader, StoredResponse } from "../core/record.js";
import { putHead, setAll } from "./send-response.js";
import type { HeaderSnapshot } from "./headers.js";

/** What Node keeps of a response beside its public properties. */
interface Internals {
  _closed: boolean;
}

/**
 * Takes the socket from a response and answers on it, with the headers that the response had in front. What is written to the
 * response from now on goes nowhere. False where there is no client to answer, or an earlier response of its connection is
 * not through.
 */
export function answerBeside(
  res: ServerResponse,
  before: HeaderSnapshot,
  response: StoredResponse,
  headers: readonly StoredHeader[],
): boolean {
  const { socket } = res.req;
  if (socket.destroyed || (socket as { _httpMessage?: unknown })._httpMessage !== res) return false;
  ServerResponse.prototype.detachSocket.call(res, socket);
  res.destroyed = true;
  (res as unknown as Internals)._closed = true;
  const beside = new ServerResponse(res.req);
  beside.shouldKeepAlive = false;
  beside.assignSocket(socket);
  // Only its own response lets Node's server go on to the next request of the connection.
  beside.once("finish", () => socket.destroySoon());
  for (const { name, value } of before.values()) beside.setHeader(name, value);
  putHead(beside, response);
  setAll(beside, headers);
  beside.end(response.body);
  return true;
}
