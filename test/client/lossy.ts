/** Many calls over a network that loses every third reply and every tenth request. */
import { seededRandom, startTcpProxy, type TcpProxy } from "../support/tcp-proxy.js";

export const calls = 200;

export function lossyProxy(url: string, seed: number): Promise<TcpProxy> {
  const faults = { random: seededRandom(seed), dropReply: 0.3, cutRequest: 0.1 };
  return startTcpProxy({ target: url, faults });
}

/** The names of the calls, in the order of the database. */
export const names = Array.from({ length: calls }, (_, index) => `call ${index}`).sort();
