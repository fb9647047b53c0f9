/** Fastify, with a context for every mount: one without the plugin, and one for each store with an instance of its own. */
import type { AddressInfo } from "node:net";

import compress from "@fastify/compress";
import Fastify, { type FastifyContextConfig, type FastifyInstance } from "fastify";

import { oncekey } from "../../../src/fastify.js";
import { caseNames, caseOf, type Case, type CaseName } from "../cases.js";
import { closeServer, pathOf, type Framework, type Mount, type Runs } from "../framework.js";
import { fastifyHandlers, type FastifyMatrixHandler } from "../handlers/fastify.js";
import { AppError, nodeHandlers } from "../handlers/node.js";
import type { StoreOptions } from "../stores.js";
import { isTransactional, transactionRowNames, writeEffect } from "../transactions.js";

/** What the framework has no way of its own for goes to Node's response. */
const onRaw =
  (name: CaseName): FastifyMatrixHandler =>
  (request, reply) => {
    reply.hijack();
    return nodeHandlers[name]?.(request.raw, reply.raw, () => undefined);
  };

const absent: Partial<Record<CaseName, string>> = {
  "send-file": "a plugin's: there is no `sendFile`",
  "send-file-range": "a plugin's: there is no `sendFile`",
  "send-file-bad-range": "a plugin's: there is no `sendFile`",
  "send-file-not-modified": "a plugin's: there is no `sendFile`",
  "send-file-precondition": "a plugin's: there is no `sendFile`",
  "gzip-in-front": "hooks compress what the handler has replied, so behind the claim",
  "throws-after-write": "after `reply.hijack()` Fastify leaves errors to the app",
  "throws-after-end": "after `reply.hijack()` Fastify leaves errors to the app",
};

const handles = new Set(caseNames.filter((name) => absent[name] === undefined));

function configOf(row: Case, isProtected: boolean): FastifyContextConfig {
  return isProtected ? { idempotency: row.route ?? true } : {};
}

async function mountRows(
  app: FastifyInstance,
  closers: (() => Promise<void>)[],
  mount: Mount,
  options: Omit<StoreOptions, "name"> | undefined,
  runs: Runs,
): Promise<void> {
  await app.register(async (context) => {
    if (options !== undefined)
      await context.register(oncekey, { ...options, scope: "global", workers: false });
    // Without grace: the handlers that never answer are still at it.
    if (options !== undefined) closers.push(() => context.idempotent.close({ graceMs: 0 }));
    await context.register(compress, { global: false, threshold: 0 });
    for (const name of handles) {
      const row = caseOf(name);
      const handler = fastifyHandlers[name] ?? onRaw(name);
      context.route({
        method: "POST",
        url: pathOf(mount, name),
        config: configOf(row, options !== undefined),
        ...(row.compression === undefined ? {} : { compress: { threshold: 0 } }),
        handler: (request, reply) => {
          runs.add(request.headers["idempotency-key"]);
          return handler(request, reply);
        },
      });
    }
    if (!isTransactional(mount)) return;
    for (const name of transactionRowNames) {
      const handler = fastifyHandlers[name] ?? onRaw(name);
      const route = context.idempotent.transaction(async (request, reply, tx) => {
        const key = request.headers["idempotency-key"];
        runs.add(key);
        await writeEffect(tx, key);
        return handler(request, reply);
      });
      context.post(pathOf(`transaction-${mount}`, name), route);
    }
  });
}

export const fastifyFramework: Framework = {
  title: "Fastify",
  package: "fastify",
  handles,
  absent,
  start: async (process, runs) => {
    const app = Fastify({ forceCloseConnections: true });
    app.setErrorHandler((error: Partial<AppError>, _request, reply) =>
      reply.code(error.status ?? 500).send({ error: error.message }),
    );
    const closers: (() => Promise<void>)[] = [];
    await mountRows(app, closers, "bare", undefined, runs);
    for (const { name, ...options } of process.stores)
      await mountRows(app, closers, name, options, runs);
    await app.listen({ port: 0, host: "127.0.0.1" });
    const [address] = app.addresses() as AddressInfo[];
    const close = async (): Promise<void> => {
      // Not by app.close(), which gives the instances their grace again.
      await closeServer(app.server);
      await Promise.all(closers.map((end) => end()));
    };
    return { port: address?.port ?? 0, close };
  },
};
