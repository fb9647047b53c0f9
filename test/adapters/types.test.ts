/** Types that tsc holds: what `tx` is under each source of transactions. Nothing here runs but the names. */
import type { ExtractTablesWithRelations } from "drizzle-orm";
import type { NodePgDatabase, NodePgQueryResultHKT } from "drizzle-orm/node-postgres";
import type { PgTransaction } from "drizzle-orm/pg-core";
import express from "express";
import type { Knex } from "knex";
import type { Kysely, Transaction } from "kysely";
import type { PoolClient } from "pg";
import type { DataSource, EntityManager } from "typeorm";

import type { Idempotency, TransactionAdapter } from "../../src/index.js";
import { drizzleTransactions } from "../../src/stores/adapters/drizzle.js";
import { knexTransactions } from "../../src/stores/adapters/knex.js";
import { kyselyTransactions } from "../../src/stores/adapters/kysely.js";
import { prismaTransactions } from "../../src/stores/adapters/prisma.js";
import { typeormTransactions } from "../../src/stores/adapters/typeorm.js";
import type { Prisma, PrismaClient } from "./prisma/client.js";

type Same<One, Other> = [One, Other] extends [Other, One] ? true : false;

interface Tables {
  orders: { id: number };
}
type Schema = Record<string, never>;

/** Never called: it needs no database to be compiled. */
function everyRoute(
  idempotent: Idempotency,
  mappers: {
    readonly prisma: PrismaClient;
    readonly drizzle: NodePgDatabase<Schema>;
    readonly knex: Knex;
    readonly kysely: Kysely<Tables>;
    readonly typeorm: DataSource;
    readonly own: TransactionAdapter<{ mine: true }>;
  },
): express.Express {
  const app = express();
  app.post(
    "/pool",
    idempotent.transaction((req, res, tx) => {
      const is: Same<typeof tx, PoolClient> = true;
      res.end(String(is && req.idempotency?.attempt));
    }),
  );
  app.post(
    "/pool/options",
    idempotent.transaction({ isolation: "serializable", transactionRetries: 5 }, (_q, res, tx) => {
      const is: Same<typeof tx, PoolClient> = true;
      res.end(String(is));
    }),
  );
  app.post(
    "/prisma",
    idempotent.transaction({ using: prismaTransactions(mappers.prisma) }, async (_q, res, tx) => {
      const is: Same<typeof tx, Prisma.TransactionClient> = true;
      const order = await tx.order.create({ data: { note: String(is) } });
      res.end(order.note);
    }),
  );
  app.post(
    "/drizzle",
    idempotent.transaction({ using: drizzleTransactions(mappers.drizzle) }, (_q, res, tx) => {
      type Expected = PgTransaction<
        NodePgQueryResultHKT,
        Schema,
        ExtractTablesWithRelations<Schema>
      >;
      const is: Same<typeof tx, Expected> = true;
      res.end(String(is));
    }),
  );
  app.post(
    "/knex",
    idempotent.transaction({ using: knexTransactions(mappers.knex) }, async (_q, res, tx) => {
      const is: Same<typeof tx, Knex.Transaction> = true;
      await tx("orders").insert({ note: String(is) });
      res.end();
    }),
  );
  app.post(
    "/kysely",
    idempotent.transaction(
      { using: kyselyTransactions(mappers.kysely) },
      async (req: express.Request, res: express.Response, tx) => {
        const is: Same<typeof tx, Transaction<Tables>> = true;
        await tx
          .insertInto("orders")
          .values({ id: Number(is) })
          .execute();
        // @ts-expect-error: no such table
        tx.insertInto("nothing");
        res.status(201).json(req.body);
      },
    ),
  );
  app.post(
    "/typeorm",
    idempotent.transaction({ using: typeormTransactions(mappers.typeorm) }, (_q, res, tx) => {
      const is: Same<typeof tx, EntityManager> = true;
      res.end(String(is));
    }),
  );
  app.post(
    "/own",
    idempotent.transaction({ using: mappers.own }, (_q, res, tx) => void res.end(String(tx.mine))),
  );
  // @ts-expect-error: the handler takes what another library opens
  idempotent.transaction({ using: mappers.own }, (_q, _s, _tx: PoolClient) => undefined);
  // @ts-expect-error: a plain route has no transaction
  idempotent({ using: mappers.own });
  // @ts-expect-error: no such level
  idempotent.transaction({ isolation: "snapshot" }, () => undefined);
  return app;
}

test("each source of transactions has its entry", () => {
  expect([
    everyRoute.name,
    prismaTransactions.name,
    drizzleTransactions.name,
    knexTransactions.name,
    kyselyTransactions.name,
    typeormTransactions.name,
  ]).toEqual([
    "everyRoute",
    "prismaTransactions",
    "drizzleTransactions",
    "knexTransactions",
    "kyselyTransactions",
    "typeormTransactions",
  ]);
});
