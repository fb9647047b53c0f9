/** Records of CSV where a file happens to be cut into pieces. */
import { cutCsv } from "../../src/cli/load-csv.js";
import { ByteTape } from "../../src/cli/load-input.js";

async function* pieces(text: string, size: number): AsyncGenerator<Uint8Array> {
  const bytes = Buffer.from(text);
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

const shape = {
  delimiter: ",",
  nullText: "",
  maxRecordBytes: 100,
  width: 2,
  fields: ["a", "b"].map((name, place) => ({ name, place, read: undefined })),
};
const limits = { maxRecords: 10, maxRecordBytes: 100 };

test.each([1, 7, 1_000])(
  "a broken quotation is told as one in pieces of %d bytes",
  async (size) => {
    const tape = new ByteTape(pieces('a,b\nx"y,longer than a piece\nc,d\n', size));
    const rows: unknown[] = [];
    const faults: unknown[] = [];
    for (let line = 1; ;) {
      const chunk = await cutCsv(tape, line, shape, limits);
      if (chunk === undefined) break;
      rows.push(...chunk.rows);
      faults.push(...chunk.faults.map((fault) => [fault.line, fault.reason]));
      line = chunk.nextLine;
    }
    expect(rows).toEqual([
      { a: "a", b: "b" },
      { a: "c", b: "d" },
    ]);
    const reason = "The record has a quotation mark inside a field that does not begin with one.";
    expect(faults).toEqual([[2, reason]]);
  },
);

test("a line without an end is held no longer than a record may be", async () => {
  const tape = new ByteTape(pieces(`a,b\nx"y,${"z".repeat(300)}\nc,d\n`, 7));
  const reasons: string[] = [];
  for (let line = 1; ;) {
    const chunk = await cutCsv(tape, line, shape, limits);
    if (chunk === undefined) break;
    reasons.push(...chunk.faults.map((fault) => `${fault.line} ${fault.reason}`));
    line = chunk.nextLine;
  }
  expect(reasons).toEqual(["2 The record is longer than 100 bytes."]);
});
