/** The response that an operator settles a key with, read from a file. Owns: that it is one that can be sent. */
import { readFile } from "node:fs/promises";
import { validateHeaderName, validateHeaderValue } from "node:http";
import { text } from "node:stream/consumers";
import { z } from "zod";
import { toResponse } from "../ops.js";
import { usageError } from "./exit.js";

const shape = z.strictObject({
  status: z.number().int().min(200).max(599),
  headers: z.record(z.string(), z.union([z.string(), z.array(z.string()).min(1)])).optional(),
  body: z.unknown().optional(),
});

const wanted =
  'It must be a JSON object such as {"status": 201, "headers": {"Location": "/v1/charges/ch_1"}, "body": {"id": "ch_1"}}.';

/** `-` reads standard input. @throws CommandError that names every problem. */
export async function readReply(file: string): Promise<ReturnType<typeof toResponse>> {
  const name = file === "-" ? "standard input" : file;
  let given: unknown;
  try {
    given = JSON.parse(file === "-" ? await text(process.stdin) : await readFile(file, "utf8"));
  } catch (error) {
    throw usageError(`${name} cannot be read as a reply: ${(error as Error).message}\n${wanted}`);
  }
  const result = shape.safeParse(given);
  if (!result.success) {
    const problems = result.error.issues.map(
      ({ path, message }) => `\n  ${path.join(".") || "reply"}: ${message}`,
    );
    throw usageError(`${name} is no reply:${problems.join("")}\n${wanted}`);
  }
  const { status, headers, body } = result.data;
  checkHeaders(name, headers ?? {});
  return toResponse({
    status,
    ...(headers === undefined ? {} : { headers }),
    ...(body === undefined ? {} : { body }),
  });
}

/** A header that Node refuses to send would turn every replay into an error. */
function checkHeaders(name: string, headers: Readonly<Record<string, string | string[]>>): void {
  for (const [header, values] of Object.entries(headers)) {
    try {
      validateHeaderName(header);
      for (const value of [values].flat()) validateHeaderValue(header, value);
    } catch (error) {
      throw usageError(`${name} is no reply: ${(error as Error).message}`);
    }
  }
}
