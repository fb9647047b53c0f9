/** What sources make of messages before a sink sees them. */
import { decodeAll } from "../../src/pipeline/source-batch.js";

test("a message of very many rows is no poison", async () => {
  const many = Array.from({ length: 300_000 }, (_, n) => ({ n }));
  const messages = ["a", "b"].map((message) => ({ message, place: message }));
  const decode = (message: string): typeof many | undefined => (message === "a" ? many : undefined);
  const rows = await decodeAll({ decode }, messages);
  expect([rows.length, rows.at(-1)]).toEqual([300_000, { n: 299_999 }]);
});
