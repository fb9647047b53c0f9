/** Express 5, Express 4 and connect: the same stack of (req, res, next). */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";

import compression from "compression";
import connect from "connect";
import express, { type ErrorRequestHandler, type RequestHandler } from "express";
import express4 from "express4";

import { createIdempotency, type Idempotency } from "../../../src/index.js";
import { caseNames, caseOf, type CaseName } from "../cases.js";
import {
  closeServer,
  listen,
  pathOf,
  type Framework,
  type Mount,
  type Runs,
} from "../framework.js";
import { expressHandlers, type ExpressHandler } from "../handlers/express.js";
import { AppError, nodeHandlers } from "../handlers/node.js";
import { cutByTheStack } from "../outcomes.js";
import type { Process } from "../stores.js";
import { isTransactional, rethrow, transactionRowNames, writeEffect } from "../transactions.js";

/** The instances of one process, one for each store. */
export function openInstances(process: Process): Map<Mount, Idempotency> {
  return new Map(
    process.stores.map(({ name, ...options }) => [
      name,
      createIdempotency({ ...options, scope: "global", workers: false }),
    ]),
  );
}

/** Without grace: the handlers that never answer are still at it. */
export async function closeInstances(instances: Map<Mount, Idempotency>): Promise<void> {
  await Promise.all([...instances.values()].map((instance) => instance.close({ graceMs: 0 })));
}

/** What stands in front of a row's handler. */
export function middlewareOf(
  name: CaseName,
  idempotent: Idempotency | undefined,
): RequestHandler[] {
  const row = caseOf(name);
  const under = idempotent === undefined ? [] : [idempotent(row.route) as RequestHandler];
  const compress = row.compression === undefined ? [] : [compression({ threshold: 0 })];
  return row.compression === "in front" ? [...compress, ...under] : [...under, ...compress];
}

export const handleError: ErrorRequestHandler = (error: Partial<AppError>, _req, res, next) => {
  if (res.headersSent) return next(error);
  res.status(error.status ?? 500).json({ error: error.message });
};

const onlyInExpress: Partial<Record<CaseName, string>> = {
  json: "written as `end`: there is no `res.json`",
  "send-string": "written as `end`: there is no `res.send`",
  "send-buffer": "written as `end`: there is no `res.send`",
  "send-object": "written as `end`: there is no `res.send`",
  "send-file": "written as a piped file: there is no `res.sendFile`",
  "send-file-range": "there is no `res.sendFile`",
  "send-file-bad-range": "there is no `res.sendFile`",
  "send-file-not-modified": "there is no `res.sendFile`",
  "send-file-precondition": "there is no `res.sendFile`",
};

/** Reasons of stacks that have Node's response and nothing more. */
export const absentOnNode = onlyInExpress;

const counted =
  (runs: Runs, handler: ExpressHandler): ExpressHandler =>
  (req, res, next) => {
    runs.add(req.headers["idempotency-key"]);
    return handler(req, res, next);
  };

/** The transaction routes of an instance: rows that the stack handles, and where they stand. */
export function transactionsOf(
  instances: Map<Mount, Idempotency>,
  runs: Runs,
  handlersOf: Partial<Record<CaseName, ExpressHandler>>,
): { readonly mount: Mount; readonly name: CaseName; readonly route: RequestHandler }[] {
  return [...instances].flatMap(([mount, idempotent]) => {
    if (!isTransactional(mount)) return [];
    return transactionRowNames.flatMap((name) => {
      const handler = handlersOf[name];
      if (handler === undefined) return [];
      const route = idempotent.transaction(async (req, res, tx) => {
        runs.add(req.headers["idempotency-key"]);
        await writeEffect(tx, req.headers["idempotency-key"]);
        return handler(req, res, rethrow);
      });
      return [{ mount: `transaction-${mount}` as const, name, route }];
    });
  });
}

/** The default error handler of all three is the same package. */
const cutOff: NonNullable<Framework["differs"]> = {
  "throws-after-write": { ...caseOf("throws-after-write"), ...cutByTheStack },
};

const handlers = { ...nodeHandlers, ...expressHandlers } as Partial<
  Record<CaseName, ExpressHandler>
>;
const rows = (from: object): Set<CaseName> => new Set(caseNames.filter((name) => name in from));

function expressFramework(
  title: string,
  packageName: string,
  make: typeof express,
  own: Partial<Record<CaseName, ExpressHandler>>,
  differs: Framework["differs"] & object,
): Framework {
  const all = { ...handlers, ...own };
  return {
    title,
    package: packageName,
    handles: rows(all),
    absent: {},
    differs,
    start: async (process, runs) => {
      const app = make();
      app.use(make.json());
      const instances = openInstances(process);
      for (const mount of ["bare", ...instances.keys()] as const) {
        for (const [name, handler] of Object.entries(all) as [CaseName, ExpressHandler][]) {
          const before = middlewareOf(name, instances.get(mount));
          app.post(pathOf(mount, name), ...before, counted(runs, handler));
        }
      }
      for (const { mount, name, route } of transactionsOf(instances, runs, all))
        app.post(pathOf(mount, name), route);
      app.use(handleError);
      const server = createServer(app);
      return {
        port: await listen(server),
        close: async () => {
          await closeServer(server);
          await closeInstances(instances);
        },
      };
    },
  };
}

export const express5Framework = expressFramework("Express 5", "express", express, {}, cutOff);

/** Leaves rejections alone, so that its apps pass them on. */
const passedOn: ExpressHandler = async (req, res, next) => {
  try {
    await nodeHandlers.rejects?.(req, res, next);
  } catch (error) {
    next(error);
  }
};

const withoutPromises: typeof cutOff = {
  ...cutOff,
  rejects: {
    ...caseOf("rejects"),
    note: "It leaves rejections alone: the handler passes its own to `next`.",
  },
};

export const express4Framework = expressFramework(
  "Express 4",
  "express4",
  express4,
  { rejects: passedOn },
  withoutPromises,
);

export const connectFramework: Framework = {
  title: "connect",
  package: "connect",
  handles: rows(nodeHandlers),
  absent: absentOnNode,
  differs: withoutPromises,
  start: async (process, runs) => {
    const app = connect();
    app.use(express.json());
    const instances = openInstances(process);
    const all = { ...nodeHandlers, rejects: passedOn } as Partial<Record<CaseName, ExpressHandler>>;
    for (const mount of ["bare", ...instances.keys()] as const) {
      for (const [name, handler] of Object.entries(all) as [CaseName, ExpressHandler][]) {
        const stack = [...middlewareOf(name, instances.get(mount)), counted(runs, handler)];
        // connect matches the beginning of a path, and a row's name may begin another's.
        const path = `${pathOf(mount, name)}/`;
        for (const layer of stack) app.use(path, layer as unknown as connect.NextHandleFunction);
      }
    }
    for (const { mount, name, route } of transactionsOf(instances, runs, all))
      app.use(`${pathOf(mount, name)}/`, route as unknown as connect.NextHandleFunction);
    app.use(
      (
        error: Partial<AppError>,
        _req: IncomingMessage,
        res: ServerResponse,
        next: connect.NextFunction,
      ) => {
        if (res.headersSent) return next(error);
        res.writeHead(error.status ?? 500, { "Content-Type": "application/json" });
        res.end(JSON.stringify({ error: error.message }));
      },
    );
    const server = createServer(app);
    return {
      port: await listen(server),
      close: async () => {
        await closeServer(server);
        await closeInstances(instances);
      },
    };
  },
};
