/**
 * The books of the payment provider: an append-only file of JSON lines. Owns: that a charge which was answered is on disk,
 * and which line counts where a key stands in several. Knows nothing of the API's database.
 */
import { randomBytes } from "node:crypto";
import { mkdir, open } from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import { dirname } from "node:path";
import { z } from "zod";

/** What is asked of the provider. */
export interface ProviderChargeRequest {
  readonly amount: number;
  readonly currency: string;
  readonly source: string;
  /** The asker's own name for what is paid. */
  readonly reference: string;
}

const lineShape = z.strictObject({
  id: z.string(),
  status: z.enum(["succeeded", "declined"]),
  amount: z.int(),
  currency: z.string(),
  source: z.string(),
  reference: z.string(),
  key: z.string().nullable(),
  /** Whether the provider kept its promise about keys when this line was written. */
  honoured: z.boolean(),
});

export type LedgerLine = Readonly<z.infer<typeof lineShape>>;

export interface ProviderLedger {
  /**
   * Books a charge, durably, and answers the line that counts: with `honoured`, the first one of its key, whoever wrote it
   * and before which crash.
   */
  book(
    request: ProviderChargeRequest,
    terms: { readonly key: string | null; readonly honoured: boolean; readonly declined: boolean },
  ): Promise<LedgerLine>;
  /** The lines that count, in their order; those of one key where one is given. */
  read(key?: string): Promise<readonly LedgerLine[]>;
  close(): Promise<void>;
}

/**
 * Opens the file when it is first needed, so that a server without a writable folder starts all the same. Several processes
 * may write to one file: lines are appended whole, and of two lines with one key the first one counts for everybody.
 */
export function openLedger(path: string): ProviderLedger {
  const lines: LedgerLine[] = [];
  const firstOf = new Map<string, LedgerLine>();
  let file: Promise<FileHandle> | undefined;
  let offset = 0;
  let last: Promise<unknown> = Promise.resolve();

  const inTurn = <Result>(work: (handle: FileHandle) => Promise<Result>): Promise<Result> => {
    const next = last.then(async () => work(await (file ??= openFile(path))));
    last = next.catch(() => undefined);
    return next;
  };
  const take = (text: string): void => {
    const line = parseLine(text);
    if (line === undefined) return;
    if (line.key !== null && line.honoured) {
      if (firstOf.has(line.key)) return;
      firstOf.set(line.key, line);
    }
    lines.push(line);
  };
  const catchUp = async (handle: FileHandle): Promise<void> => {
    const { size } = await handle.stat();
    if (size <= offset) return;
    const { buffer } = await handle.read(Buffer.alloc(size - offset), 0, size - offset, offset);
    const end = buffer.lastIndexOf("\n") + 1;
    offset += end;
    for (const text of buffer.toString("utf8", 0, end).split("\n")) take(text);
  };

  return {
    book: (request, { key, honoured, declined }) =>
      inTurn(async (handle) => {
        await catchUp(handle);
        const known = honoured && key !== null ? firstOf.get(key) : undefined;
        if (known !== undefined) return known;
        const { amount, currency, source, reference } = request;
        const line: LedgerLine = {
          id: `pc_${randomBytes(12).toString("hex")}`,
          status: declined ? "declined" : "succeeded",
          amount,
          currency,
          source,
          reference,
          key,
          honoured,
        };
        await handle.appendFile(`${JSON.stringify(line)}\n`);
        await handle.datasync();
        await catchUp(handle);
        // Another process may have written a line of this key just before.
        return honoured && key !== null ? (firstOf.get(key) ?? line) : line;
      }),
    read: (key) =>
      inTurn(async (handle) => {
        await catchUp(handle);
        return key === undefined ? [...lines] : lines.filter((line) => line.key === key);
      }),
    close: async () => {
      await last;
      await (await file)?.close();
    },
  };
}

async function openFile(path: string): Promise<FileHandle> {
  await mkdir(dirname(path), { recursive: true });
  const handle = await open(path, "a+");
  // A crash may have left half a line, which the next one must not be glued to. An empty line does no harm.
  await handle.appendFile("\n");
  return handle;
}

/** Undefined for half a line of a process that was killed: it was never answered. */
function parseLine(text: string): LedgerLine | undefined {
  try {
    return lineShape.parse(JSON.parse(text));
  } catch {
    return undefined;
  }
}
