/** Serves a function of Request to Response on a real socket. */
import type { AddressInfo } from "node:net";

import { serve } from "@hono/node-server";

export interface FetchServer {
  readonly url: string;
  readonly port: number;
  close(): Promise<void>;
}

export async function serveFetch(
  handler: (request: Request) => Response | Promise<Response>,
): Promise<FetchServer> {
  const [server, { port }] = await new Promise<[ReturnType<typeof serve>, AddressInfo]>(
    (resolve) => {
      const started = serve({ fetch: handler, port: 0, hostname: "127.0.0.1" }, (info) =>
        resolve([started, info]),
      );
    },
  );
  return {
    port,
    url: `http://127.0.0.1:${port}`,
    close: () =>
      new Promise((resolve, reject) => {
        server.close((error) => (error === undefined ? resolve() : reject(error)));
        if ("closeAllConnections" in server) server.closeAllConnections();
      }),
  };
}
