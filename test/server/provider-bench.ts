/** The payment provider for tests: what it is told, and what its books say. */
import { join } from "node:path";

import { temporaryDirectory } from "../support/processes.js";
import { type RunningProcess, startProgram } from "../support/server-process.js";

export type LedgerLine = {
  id: string;
  status: "succeeded" | "declined";
  amount: number;
  reference: string;
  key: string | null;
};

/** As `POST /control` takes it; see src/server/provider.ts. */
export type Fault = {
  match?: string;
  times?: number;
  at?: "received" | "charged";
  delayMs?: number;
  pause?: boolean;
  status?: number;
  cut?: boolean;
};

export type ProviderState = { honoursKeys: boolean; received: number; paused: number };

export type ProviderProcess = RunningProcess & { readonly url: string; readonly file: string };

export function newLedgerFile(): string {
  return join(temporaryDirectory("provider"), "books", "ledger.jsonl");
}

export async function startProviderProcess(
  options: { file?: string; port?: number; honoursKeys?: boolean } = {},
): Promise<ProviderProcess> {
  const file = options.file ?? newLedgerFile();
  const program = startProgram("test/server/programs/provider.ts", {
    env: {
      PROVIDER_LEDGER: file,
      PROVIDER_PORT: String(options.port ?? 0),
      PROVIDER_HONOURS_KEYS: String(options.honoursKeys ?? true),
    },
  });
  const [, port] = await program.waitForOutput(/^ready (\d+) /m);
  return { ...program, url: `http://127.0.0.1:${port}`, file };
}

async function json<T>(response: Response): Promise<T> {
  if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
  return (await response.json()) as T;
}

export async function control(
  url: string,
  told: { honoursKeys?: boolean; faults?: Fault[]; resume?: boolean } = {},
): Promise<ProviderState> {
  return json(
    await fetch(`${url}/control`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(told),
    }),
  );
}

/** Every line that counts. */
export async function readLedger(url: string): Promise<LedgerLine[]> {
  const { data } = await json<{ data: LedgerLine[] }>(await fetch(`${url}/ledger`));
  return data;
}

/** The charges of a checkout that money moved for. */
export async function chargesOf(url: string, reference: string): Promise<LedgerLine[]> {
  const lines = await readLedger(url);
  return lines.filter((line) => line.reference === reference && line.status === "succeeded");
}
