/** NestJS on Express: `consumer.apply(idempotent())` in front of controllers that return their answers, or take `@Res()`. */
import "reflect-metadata";

import {
  Body,
  Controller,
  HttpCode,
  HttpException,
  type INestApplication,
  type MiddlewareConsumer,
  Module,
  Next,
  Post,
  Req,
  Res,
} from "@nestjs/common";
import { NestFactory } from "@nestjs/core";
import { ExpressAdapter } from "@nestjs/platform-express";
import type { NextFunction, Request, Response } from "express";

import type { Idempotency } from "../../../src/index.js";
import { caseNames, caseOf, type CaseName } from "../cases.js";
import { pathOf, type Framework, type Mount, type Runs } from "../framework.js";
import { expressHandlers } from "../handlers/express.js";
import { nestHandlers } from "../handlers/nest.js";
import { nodeHandlers } from "../handlers/node.js";
import { closeInstances, middlewareOf, openInstances, transactionsOf } from "./express.js";

type Rows = readonly (readonly [Mount, CaseName])[];

const onExpress = { ...nodeHandlers, ...expressHandlers };

/** As the controllers' methods answer that stand alone. */
const inTransactions: typeof expressHandlers = {
  ...onExpress,
  "pipe-file": (req, res, next) => {
    res.setHeader("Content-Type", "application/octet-stream");
    return nodeHandlers["pipe-file"]?.(req, res, next);
  },
  "next-error": () => {
    throw new HttpException({ code: "card_declined" }, 402);
  },
};

/** A controller with a method for every row. Decorators are functions; the compiler of the tests has no syntax for them. */
function controllerOf(
  rows: Rows,
  runs: Runs,
  instances: Map<Mount, Idempotency>,
): new () => object {
  const MatrixController = class {
    readonly title = "matrix";
  };
  for (const [mount, name] of rows) {
    const property = `${mount} ${name}`;
    // Of a POST Nest says 201 unless it is told.
    const status = HttpCode(caseOf(name).status ?? 200);
    const { answer, decorators = [status] } = nestHandlers[name] ?? {};
    const value =
      answer === undefined
        ? (req: Request, res: Response, next: NextFunction) => {
            runs.add(req.headers["idempotency-key"]);
            return onExpress[name]?.(req, res, next);
          }
        : (req: Request, body: unknown) => {
            runs.add(req.headers["idempotency-key"]);
            return answer(body);
          };
    Object.defineProperty(MatrixController.prototype, property, { value, configurable: true });
    const descriptor = Object.getOwnPropertyDescriptor(MatrixController.prototype, property);
    const parameters = answer === undefined ? [Req(), Res(), Next()] : [Req(), Body()];
    for (const [index, decorate] of parameters.entries())
      decorate(MatrixController.prototype, property, index);
    for (const decorate of [Post(pathOf(mount, name)), ...decorators])
      decorate(MatrixController.prototype, property, descriptor as PropertyDescriptor);
  }
  // A transaction route is a whole handler, which a controller's method calls.
  for (const { mount, name, route } of transactionsOf(instances, runs, inTransactions)) {
    const property = `${mount} ${name}`;
    const value = (req: Request, res: Response, next: NextFunction) => route(req, res, next);
    Object.defineProperty(MatrixController.prototype, property, { value, configurable: true });
    const descriptor = Object.getOwnPropertyDescriptor(MatrixController.prototype, property);
    for (const [index, decorate] of [Req(), Res(), Next()].entries())
      decorate(MatrixController.prototype, property, index);
    for (const decorate of [Post(pathOf(mount, name)), HttpCode(caseOf(name).status ?? 200)])
      decorate(MatrixController.prototype, property, descriptor as PropertyDescriptor);
  }
  Controller()(MatrixController);
  return MatrixController;
}

function moduleOf(rows: Rows, runs: Runs, instances: Map<Mount, Idempotency>): new () => object {
  class MatrixModule {
    configure(consumer: MiddlewareConsumer): void {
      for (const [mount, name] of rows) {
        const layers = middlewareOf(name, instances.get(mount));
        if (layers.length > 0) consumer.apply(...layers).forRoutes(pathOf(mount, name));
      }
    }
  }
  Module({ controllers: [controllerOf(rows, runs, instances)] })(MatrixModule);
  return MatrixModule;
}

export const nestFramework: Framework = {
  title: "NestJS",
  package: "@nestjs/core",
  handles: new Set(caseNames.filter((name) => name in onExpress || name in nestHandlers)),
  absent: {},
  differs: {
    "throws-after-write": {
      title: "an error after the first write",
      note: "NestJS ends such a response as if it were whole, and that is what is stored.",
    },
  },
  start: async (process, runs) => {
    const instances = openInstances(process);
    const rows = (["bare", ...instances.keys()] as const).flatMap((mount) =>
      [...nestFramework.handles].map((name) => [mount, name] as const),
    );
    const module = moduleOf(rows, runs, instances);
    const app: INestApplication = await NestFactory.create(module, new ExpressAdapter(), {
      logger: false,
    });
    await app.listen(0, "127.0.0.1");
    const server = app.getHttpServer() as import("node:http").Server;
    const { port } = server.address() as import("node:net").AddressInfo;
    return {
      port,
      close: async () => {
        server.closeAllConnections();
        await app.close();
        await closeInstances(instances);
      },
    };
  },
};
