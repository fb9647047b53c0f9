import { PrismaPg } from "@prisma/adapter-pg";

import { prismaTransactions } from "../../src/stores/adapters/prisma.js";
// Made by Prisma's generator from schema.prisma beside it; committed, because the generator's own packages fetch engines from
// elsewhere when they are installed.
import { PrismaClient } from "./prisma/client.js";
import type { Prisma } from "./prisma/client.js";
import { adapterSuite } from "./suite.js";

adapterSuite<Prisma.TransactionClient>({
  open: (url) => {
    const prisma = new PrismaClient({ adapter: new PrismaPg({ connectionString: url }) });
    return { using: prismaTransactions(prisma), close: () => prisma.$disconnect() };
  },
  insert: async (tx, note) => (await tx.order.create({ data: { note } })).id,
  touch: (tx, note) => tx.order.update({ where: { note }, data: { note } }),
  run: (tx, statement) => tx.$queryRawUnsafe<Record<string, unknown>[]>(statement),
  afterEnd: /already closed/,
});
