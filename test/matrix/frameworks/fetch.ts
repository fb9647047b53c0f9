/** The Fetch adapter: Hono, and plain functions from Request to Response, both served by Hono's server for Node. */
import { createServer } from "node:http";

import { getRequestListener } from "@hono/node-server";
import { type Context, Hono } from "hono";
import { compress } from "hono/compress";

import { type FetchIdempotency, idempotentFetch } from "../../../src/fetch.js";
import { caseNames, caseOf, type CaseName } from "../cases.js";
import {
  closeServer,
  listen,
  pathOf,
  type Framework,
  type Mount,
  type RunningApp,
  type Runs,
} from "../framework.js";
import { fetchHandlers, type FetchMatrixHandler } from "../handlers/fetch.js";
import { AppError } from "../handlers/node.js";
import { failsWhole } from "../outcomes.js";
import type { Process } from "../stores.js";
import { isTransactional, transactionRowNames, writeEffect } from "../transactions.js";

const noWrites = "a handler returns its response, and has no `write` or `end`";
const noHead = "there is no `writeHead`; status and headers are the Response's";

const absent: Partial<Record<CaseName, string>> = {
  "end-encoding": noWrites,
  backpressure: noWrites,
  "reused-buffer": "a chunk that was enqueued is its reader's",
  "write-head-object": noHead,
  "write-head-array": noHead,
  "write-head-reason": noHead,
  "flush-headers": noHead,
  "explicit-chunks": "the server frames",
  trailers: "a Response has none",
  "early-hints": "a Response has none",
  processing: "a Response has none",
  "content-under-204": "the constructor throws",
  "send-file": "there is no `sendFile`",
  "send-file-range": "there is no `sendFile`",
  "send-file-bad-range": "there is no `sendFile`",
  "send-file-not-modified": "there is no `sendFile`",
  "send-file-precondition": "there is no `sendFile`",
  "throws-after-write": "the same as a stream that fails half way",
  "throws-after-end": noWrites,
  "end-twice": noWrites,
  "write-after-end": noWrites,
  destroy: noWrites,
};

const differs: NonNullable<Framework["differs"]> = {
  "pipe-fails": { title: "a stream that fails half way", ...failsWhole },
  "body-0": {
    ...caseOf("body-0"),
    isReframed: true,
    note: "An empty body is given to the server as none: Hono's for Node then sends no `Content-Length: 0`.",
  },
};

/** As behind every middleware that looks at `c.res`. */
const inHono = {
  headers: [["content-type", "text/plain; charset=UTF-8"]],
  note: "`c.text` says `text/plain; charset=UTF-8`, as behind any middleware that looks at `c.res`; alone it leaves out the space.",
} as const;

const handles = new Set(caseNames.filter((name) => name in fetchHandlers));

const renderError = (error: unknown): Response => {
  const { status = 500, message } = error as Partial<AppError>;
  return Response.json({ error: message }, { status });
};

function openInstances(process: Process): Map<Mount, FetchIdempotency> {
  return new Map(
    process.stores.map(({ name, ...options }) => [
      name,
      idempotentFetch({ ...options, scope: "global", workers: false, onError: renderError }),
    ]),
  );
}

const counted =
  (runs: Runs, handler: FetchMatrixHandler): FetchMatrixHandler =>
  (request) => {
    runs.add(request.headers.get("idempotency-key"));
    return handler(request);
  };

async function serve(
  fetch: (request: Request) => Response | Promise<Response>,
  instances: Map<Mount, FetchIdempotency>,
): Promise<RunningApp> {
  // Left alone, so that the global Response is the one that plain functions and Hono are tried with.
  const listener = getRequestListener(fetch, { overrideGlobalObjects: false });
  const server = createServer((request, response) => void listener(request, response));
  return {
    port: await listen(server),
    close: async () => {
      await closeServer(server);
      // Without grace: the handlers that never answer are still at it.
      await Promise.all([...instances.values()].map((instance) => instance.close({ graceMs: 0 })));
    },
  };
}

const functionAbsent: typeof absent = {
  ...absent,
  "gzip-in-front": "nothing stands in front of a function",
};

export const fetchFramework: Framework = {
  title: "Request → Response",
  versionTitle: "Hono's server for Node",
  package: "@hono/node-server",
  handles: new Set([...handles].filter((name) => functionAbsent[name] === undefined)),
  absent: functionAbsent,
  differs,
  start: async (process, runs) => {
    const instances = openInstances(process);
    const routes = new Map<string, (request: Request) => Promise<Response>>();
    for (const name of handles) {
      const handler = counted(runs, fetchHandlers[name] as FetchMatrixHandler);
      routes.set(pathOf("bare", name), async (request) => {
        try {
          return await handler(request);
        } catch (error) {
          return renderError(error);
        }
      });
      for (const [mount, idempotent] of instances)
        routes.set(pathOf(mount, name), idempotent(caseOf(name).route ?? {}, handler));
    }
    for (const [mount, idempotent] of instances) {
      if (!isTransactional(mount)) continue;
      for (const name of transactionRowNames.filter((row) => handles.has(row))) {
        const route = idempotent.transaction(async (request: Request, tx) => {
          const key = request.headers.get("idempotency-key");
          runs.add(key);
          await writeEffect(tx, key);
          return (fetchHandlers[name] as FetchMatrixHandler)(request);
        });
        routes.set(pathOf(`transaction-${mount}`, name), async (request) => {
          try {
            return await route(request);
          } catch (error) {
            return renderError(error);
          }
        });
      }
    }
    const notFound = new Response(null, { status: 404 });
    return serve(
      (request) => routes.get(new URL(request.url).pathname)?.(request) ?? notFound,
      instances,
    );
  },
};

/** What Hono has a way of its own for. */
const honoHandlers: Partial<Record<CaseName, (c: Context) => Response | Promise<Response>>> = {
  json: async (c) => {
    const { amount } = await c.req.json<{ amount: number }>();
    return c.json({ id: "ch_1", amount }, 201);
  },
  "send-string": (c) => c.text("paid"),
  "send-object": (c) => c.json({ id: "ch_1", paid: true }),
  "empty-200": (c) => c.body(null),
  "set-headers": (c) => {
    c.header("X-List", "a");
    c.header("X-List", "b", { append: true });
    c.header("X-Gone", "1");
    c.header("X-Gone", undefined);
    return c.text("ok");
  },
  redirect: (c) => c.redirect("/charges/ch_1"),
  "see-other": (c) => c.redirect("/charges/ch_1", 303),
  "no-content": (c) => c.body(null, 204),
  "gzip-behind": (c) => c.text("the same words again, ".repeat(200)),
};

const honoHandles = new Set([...handles].filter((name) => name !== "times-out"));

export const honoFramework: Framework = {
  title: "Hono",
  package: "hono",
  handles: honoHandles,
  absent: {
    ...absent,
    "times-out": "Hono cannot answer beside a handler that goes on; the option is refused",
  },
  differs: {
    ...differs,
    "send-string": { ...caseOf("send-string"), ...inHono },
    "gzip-behind": { ...caseOf("gzip-behind"), ...inHono },
  },
  start: async (process, runs) => {
    const instances = openInstances(process);
    const app = new Hono();
    for (const mount of ["bare", ...instances.keys()] as const) {
      for (const name of honoHandles) {
        const row = caseOf(name);
        const idempotent = instances.get(mount);
        const own = honoHandlers[name];
        const under = idempotent === undefined ? [] : [idempotent.hono(row.route)];
        const around = row.compression === undefined ? [] : [compress({ threshold: 0 })];
        const before =
          row.compression === "in front" ? [...around, ...under] : [...under, ...around];
        const path = pathOf(mount, name);
        for (const layer of before) app.use(path, layer);
        app.post(path, (c) => {
          runs.add(c.req.header("idempotency-key"));
          return own === undefined
            ? (fetchHandlers[name] as FetchMatrixHandler)(c.req.raw)
            : own(c);
        });
      }
    }
    for (const [mount, idempotent] of instances) {
      if (!isTransactional(mount)) continue;
      for (const name of transactionRowNames.filter((row) => honoHandles.has(row))) {
        const route = idempotent.hono.transaction(async (c: Context, tx) => {
          const key = c.req.header("idempotency-key");
          runs.add(key);
          await writeEffect(tx, key);
          return honoHandlers[name]?.(c) ?? (fetchHandlers[name] as FetchMatrixHandler)(c.req.raw);
        });
        app.post(pathOf(`transaction-${mount}`, name), route);
      }
    }
    app.onError(renderError);
    return serve((request) => app.fetch(request), instances);
  },
};
