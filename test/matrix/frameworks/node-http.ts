/** Bare node:http: the app parses the body, calls the middleware and handles errors itself. */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { text } from "node:stream/consumers";

import compression from "compression";

import type { HttpRequest } from "../../../src/index.js";
import { caseNames, caseOf, type CaseName } from "../cases.js";
import { closeServer, listen, pathOf, type Framework, type Mount } from "../framework.js";
import { AppError, nodeHandlers } from "../handlers/node.js";
import { absentOnNode, closeInstances, openInstances, transactionsOf } from "./express.js";

type Layer = (req: HttpRequest, res: ServerResponse, next: (error?: unknown) => void) => void;

function handleError(res: ServerResponse, error: Partial<AppError>): void {
  if (res.headersSent) {
    res.destroy();
    return;
  }
  res.writeHead(error.status ?? 500, { "Content-Type": "application/json" });
  res.end(JSON.stringify({ error: error.message }));
}

/** Calls one layer after the other, as a stack does. */
function runLayers(layers: readonly Layer[], req: HttpRequest, res: ServerResponse): void {
  const [layer, ...rest] = layers;
  layer?.(req, res, (error) => {
    if (error === undefined) runLayers(rest, req, res);
    else handleError(res, error as AppError);
  });
}

async function parseBody(req: IncomingMessage & { body?: unknown }): Promise<void> {
  req.body = JSON.parse(await text(req));
}

export const nodeHttpFramework: Framework = {
  title: "node:http",
  package: "",
  handles: new Set(caseNames.filter((name) => name in nodeHandlers)),
  absent: absentOnNode,
  start: async (process, runs) => {
    const instances = openInstances(process);
    const compress = compression({ threshold: 0 }) as unknown as Layer;
    const routes = new Map<string, readonly Layer[]>();
    for (const mount of ["bare", ...instances.keys()] as const) {
      const idempotent = instances.get(mount);
      for (const name of caseNames) {
        const row = caseOf(name);
        const under = idempotent === undefined ? [] : [idempotent(row.route)];
        const layers = row.compression === undefined ? under : [...under, compress];
        if (row.compression === "in front") layers.reverse();
        routes.set(pathOf(mount, name), layers);
      }
    }
    const all = nodeHandlers as Parameters<typeof transactionsOf>[2];
    const transactions = new Map<string, Layer>();
    for (const { mount, name, route } of transactionsOf(instances, runs, all))
      transactions.set(pathOf(mount, name), route as unknown as Layer);
    const server = createServer((req, res) => {
      const [, , name] = (req.url ?? "").split("/") as [string, Mount, CaseName];
      const handle: Layer = (_req, _res, next) => {
        runs.add(req.headers["idempotency-key"]);
        const run = async (): Promise<unknown> => nodeHandlers[name]?.(req, res, next);
        run().catch((error: unknown) => handleError(res, error as AppError));
      };
      const run = async (): Promise<void> => {
        await parseBody(req);
        const layers = [
          ...(routes.get(req.url ?? "") ?? []),
          transactions.get(req.url ?? "") ?? handle,
        ];
        runLayers(layers, req as HttpRequest, res);
      };
      run().catch((error: unknown) => handleError(res, error as AppError));
    });
    return {
      port: await listen(server),
      close: async () => {
        await closeServer(server);
        await closeInstances(instances);
      },
    };
  },
};
