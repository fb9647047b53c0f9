/** A client that keeps an answer byte for byte, and can hang up. */
import { randomUUID } from "node:crypto";
import { request } from "node:http";

import { waitFor } from "../support/wait-for.js";

export type Answer = {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly bytes: Buffer;
  /** `code` of a problem document; undefined for every other body. */
  readonly code: string | undefined;
};

export type Call = {
  readonly key: string;
  readonly body?: unknown;
  readonly signal?: AbortSignal;
  readonly headers?: Readonly<Record<string, string>>;
};

export function newKey(): string {
  return `key-${randomUUID()}`;
}

/** One POST on a connection of its own. Rejects where the connection ends before the answer does. */
export function post(url: string, path: string, call: Call): Promise<Answer> {
  const body = JSON.stringify(call.body ?? {});
  return new Promise((resolve, reject) => {
    const outgoing = request(new URL(path, url), {
      method: "POST",
      agent: false,
      ...(call.signal === undefined ? {} : { signal: call.signal }),
      headers: {
        "Content-Type": "application/json",
        "Content-Length": Buffer.byteLength(body),
        "Idempotency-Key": call.key,
        Authorization: "Bearer sk_test_demo",
        ...call.headers,
      },
    });
    outgoing.on("error", reject);
    outgoing.on("response", (incoming) => {
      const chunks: Buffer[] = [];
      incoming.on("data", (chunk: Buffer) => chunks.push(chunk));
      incoming.on("error", reject);
      incoming.on("end", () => {
        const bytes = Buffer.concat(chunks);
        const { statusCode: status = 0, headers } = incoming;
        resolve({ status, headers, bytes, code: codeOf(headers["content-type"], bytes) });
      });
    });
    outgoing.end(body);
  });
}

function codeOf(contentType: string | undefined, bytes: Buffer): string | undefined {
  if (!contentType?.startsWith("application/problem+json")) return undefined;
  return (JSON.parse(bytes.toString()) as { code?: string }).code;
}

/** As a client with patience: the same request until it is told something that is not "later". */
export async function retry(url: string, path: string, call: Call): Promise<Answer> {
  let last: Answer | undefined;
  const answer = await waitFor(
    async () => {
      last = await post(url, path, call);
      return last.status === 503 || last.code === "in_progress" ? undefined : last;
    },
    { timeoutMs: 60_000, intervalMs: 50, what: `another answer than 503 and 409 in_progress` },
  ).catch((cause: unknown) => {
    throw new Error(`The last answer was ${last?.status} ${last?.code}.`, { cause });
  });
  return answer;
}

/** `[status, code]`, as tests compare refusals. */
export function outcome({ status, code }: Answer): [number, string | undefined] {
  return [status, code];
}
