/**
 * How pg reads the values of our own statements. Owns: that what an application has told pg of types (`setTypeParser`, `types`)
 * is for the application's statements only. Types that are not here are read as the server's text; times and bytes, whose text
 * depends on settings of the role, must not be among the answers.
 */
import type { CustomTypesConfig, Pool, QueryResultRow } from "pg";

const parsers: ReadonlyMap<number, (text: string) => unknown> = new Map([
  [16, (text: string): unknown => text === "t"], // bool
  [21, Number], // int2
  [23, Number], // int4
  [114, (text: string): unknown => JSON.parse(text)], // json
  [701, Number], // float8
]);

const asText = (text: string): string => text;

/** Every value as the server's text. */
export const textTypes: CustomTypesConfig = { getTypeParser: () => asText };

export const ownTypes: CustomTypesConfig = {
  getTypeParser: ((oid: number) =>
    parsers.get(oid) ?? asText) as CustomTypesConfig["getTypeParser"],
};

/** Rows of a statement of ours on a connection that is the application's. */
export async function ownRows<Row extends QueryResultRow>(
  on: Pick<Pool, "query">,
  text: string,
  values: readonly unknown[] = [],
): Promise<readonly Row[]> {
  const { rows } = await on.query<Row>({ text, values: [...values], types: ownTypes });
  return rows;
}
