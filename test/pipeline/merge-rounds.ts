/** What every engine has to do with the same rows; each engine's test hands in how to run a statement there. */
import { mergeSink } from "../../src/pipeline.js";
import type { MergeEngine, MergeSinkOptions, SinkRow } from "../../src/pipeline.js";

export interface MergeCase {
  readonly engine: () => MergeEngine;
  /** Makes an empty table (id text key, version bigint, merchant text, amount decimal(20, 2)) and answers its name. */
  readonly makeTable: () => Promise<string>;
  /** All rows as texts, by id. */
  readonly read: (table: string) => Promise<string[]>;
  /** Rows of a batch in each of three rounds of 60 rows; larger where a batch takes a second. */
  readonly batchRows?: readonly [number, number, number];
}

const columns = ["id", "version", "merchant", "amount"];

const row = (id: string, version: number, merchant: string | null, amount: string): SinkRow => ({
  id,
  version,
  merchant,
  amount,
});

export function describeMerge({
  engine,
  makeTable,
  read,
  batchRows = [60, 7, 1],
}: MergeCase): void {
  const open = async (options: Partial<MergeSinkOptions> = {}) => {
    const table = options.table ?? (await makeTable());
    const sink = mergeSink({
      key: "id",
      columns,
      onDuplicate: "overwrite",
      version: "version",
      engine: engine(),
      ...options,
      table,
    });
    return { table, sink };
  };

  test("the newest version of each key is kept, in whatever order and batches they come", async () => {
    const rows = Array.from({ length: 60 }, (_, n) =>
      row(
        `e${n % 12}`,
        Math.min(2, (n * 7) % 5),
        `m'"\\ü\`${(n * 11) % 13}`,
        `${(n * 31) % 17}.50`,
      ),
    );
    const orders = [rows, rows.toReversed(), [...rows.slice(31), ...rows.slice(0, 31)]];
    const results: string[][] = [];
    for (const [index, order] of orders.entries()) {
      const { table, sink } = await open({ batchRows: batchRows[index] ?? 1 });
      await sink.write(order);
      results.push(await read(table));
      await sink.write(order);
      results.push(await read(table));
    }
    expect(results[0]).toHaveLength(12);
    // The highest version is there three times for each key, with three contents.
    for (const result of results) expect(result).toEqual(results[0]);
    for (const line of results[0] ?? []) expect(line).toMatch(/^e\d+\|2\|/);
  });

  test("a row is replaced as a whole, never mixed from two", async () => {
    const [a, b] = [row("e", 1, "a", "9.00"), row("e", 1, "b", "1.00")];
    const results: string[][] = [];
    for (const order of [
      [a, b],
      [b, a],
    ]) {
      const { table, sink } = await open();
      for (const one of order) await sink.writeBatch([one]);
      results.push(await read(table));
    }
    expect([["e|1|a|9.00"], ["e|1|b|1.00"]]).toContainEqual(results[0]);
    expect(results[1]).toEqual(results[0]);
  });

  test("an older version changes nothing, and a newer one everything, NULL too", async () => {
    const { table, sink } = await open();
    await sink.writeBatch([row("e", 5, "five", "5.00")]);
    await sink.writeBatch([row("e", 4, "four", "4.00")]);
    expect(await read(table)).toEqual(["e|5|five|5.00"]);
    await sink.writeBatch([row("e", 6, null, "6.00")]);
    expect(await read(table)).toEqual(["e|6||6.00"]);
  });

  test("ignore keeps the first row of each key, in a batch and across batches", async () => {
    const { table, sink } = await open({ onDuplicate: "ignore", version: undefined as never });
    await sink.writeBatch([row("a", 1, "first", "1.00"), row("a", 9, "second", "2.00")]);
    await sink.writeBatch([row("a", 10, "third", "3.00"), row("b", 1, "other", "4.00")]);
    expect(await read(table)).toEqual(["a|1|first|1.00", "b|1|other|4.00"]);
  });

  test("overwrite without a version takes the last row", async () => {
    const { table, sink } = await open({ version: undefined as never });
    await sink.writeBatch([row("a", 9, "first", "1.00"), row("a", 1, "last", "2.00")]);
    expect(await read(table)).toEqual(["a|1|last|2.00"]);
    await sink.writeBatch([row("a", 0, "later", "3.00")]);
    expect(await read(table)).toEqual(["a|0|later|3.00"]);
  });

  test("a value that cannot be stored is set aside, and the others are stored exactly", async () => {
    const bad: string[] = [];
    const { table, sink } = await open({
      onBadRow: ({ rowNumber, reason }) => void bad.push(`${rowNumber} ${reason}`),
    });
    const counts = await sink.write([
      row("a", 1, "x", "1.00"),
      { ...row("b", 1, "x", "1.00"), id: null },
      { ...row("c", 1, "x", "1.00"), version: 2 ** 60 },
      { ...row("d", 1, "x", "123456789012345678.25"), version: 9_007_199_254_740_993n },
    ]);
    expect(counts).toEqual({ rows: 2, badRows: 2, batches: 1 });
    expect(bad).toEqual([
      "2 id must have a value: it is part of the key or the version.",
      "3 version is an integer beyond 2^53: give it as a bigint or a text.",
    ]);
    expect(await read(table)).toEqual(["a|1|x|1.00", "d|9007199254740993|x|123456789012345678.25"]);
  });

  test("without onBadRow such a row fails its batch, and nothing of it is written", async () => {
    const { table, sink } = await open();
    const rows = [row("a", 1, "x", "1.00"), { ...row("b", 1, "x", "1.00"), version: null }];
    await expect(sink.writeBatch(rows)).rejects.toMatchObject({ code: "row_invalid" });
    expect(await read(table)).toEqual([]);
  });

  test("a table or a column that is missing is named", async () => {
    const table = await makeTable();
    const { sink } = await open({ table, columns: [...columns, "colour", "size"] });
    await expect(sink.writeBatch([row("a", 1, "x", "1.00")])).rejects.toMatchObject({
      code: "table_unsuitable",
      message: `Table ${table}: column colour is not there; column size is not there.`,
    });
    const { sink: nowhere } = await open({ table: "not_there" });
    await expect(nowhere.writeBatch([row("a", 1, "x", "1.00")])).rejects.toMatchObject({
      code: "table_unsuitable",
    });
  });

  test("two writers at once leave what one would have", async () => {
    const rows = Array.from({ length: 40 }, (_, n) =>
      row(`e${n % 10}`, n >> 3, `m${n}`, `${n}.00`),
    );
    const { table, sink } = await open({ batchRows: 10 });
    const { sink: other } = await open({ table, batchRows: 8 });
    await Promise.all([sink.write(rows), other.write(rows.toReversed())]);
    const alone = await open();
    await alone.sink.write(rows);
    expect(await read(table)).toEqual(await read(alone.table));
  });
}
