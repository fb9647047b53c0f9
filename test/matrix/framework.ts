/** What a framework brings to the matrix. */
import type { Server } from "node:http";

import { caseNames, caseOf, type Case, type CaseName } from "./cases.js";
import type { Process, StoreName } from "./stores.js";

/** Where a handler stands: alone, or on a plain or a transaction route with a store. */
export type Mount = "bare" | StoreName | `transaction-${StoreName}`;

export const pathOf = (mount: Mount, name: CaseName): string => `/${mount}/${name}`;

/** Counts the runs of handlers by the key that the client sent. */
export class Runs {
  readonly #counts = new Map<string, number>();

  add(key: string | readonly string[] | null | undefined): void {
    this.#counts.set(String(key), this.of(String(key)) + 1);
  }

  of(key: string): number {
    return this.#counts.get(key) ?? 0;
  }
}

export interface RunningApp {
  readonly port: number;
  close(): Promise<void>;
}

export interface Framework {
  readonly title: string;
  /** Where the version is that of something else. */
  readonly versionTitle?: string;
  /** Of which npm package the version is told; none for Node itself. */
  readonly package: string;
  /** Rows that it can have. */
  readonly handles: ReadonlySet<CaseName>;
  /** Rows that come to something else here than elsewhere. */
  readonly differs?: Partial<Record<CaseName, Case>>;
  /** Why it has no other rows. */
  readonly absent: Partial<Record<CaseName, string>>;
  start(process: Process, runs: Runs): Promise<RunningApp>;
}

export const rowOf = (framework: Framework, name: CaseName): Case =>
  framework.differs?.[name] ?? caseOf(name);

/** Every row is handled or has a reason; anything else is forgotten. */
export function forgotten({ handles, absent }: Pick<Framework, "handles" | "absent">): CaseName[] {
  return caseNames.filter((name) => handles.has(name) === (absent[name] !== undefined));
}

export async function listen(server: Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("No port was given.");
  return address.port;
}

export async function closeServer(server: Server): Promise<void> {
  const closed = new Promise((resolve) => server.close(resolve));
  server.closeAllConnections();
  await closed;
}
