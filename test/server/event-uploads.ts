/** Events, and uploads of them, for the tests of these routes. */
import { randomUUID } from "node:crypto";

import { accountA, type Api, get, post, type RawResponse } from "./api.js";

/** A merchant of this test alone. */
export const newMerchant = (): string => `m_${randomUUID().slice(0, 8)}`;

export function event(merchant: string, changes: object = {}): Record<string, unknown> {
  return {
    event_id: `order-${randomUUID()}`,
    merchant_id: merchant,
    amount: 100,
    currency: "eur",
    occurred_at: "2026-03-01T12:00:00Z",
    ...changes,
  };
}

export const ndjson = { "Content-Type": "application/x-ndjson" };

/** Sends lines: of what is no text, its JSON. */
export function uploadTo(api: Pick<Api, "url">) {
  return (
    lines: readonly (object | string)[],
    headers: Record<string, string> = {},
  ): Promise<RawResponse> => {
    const text = lines.map((line) => (typeof line === "string" ? line : JSON.stringify(line)));
    return post(api.url, "/v1/events", text.join("\n"), { ...ndjson, ...headers });
  };
}

export async function counts(asked: RawResponse | Promise<RawResponse>): Promise<unknown[]> {
  const { status, json } = await asked;
  const { received, accepted, inserted, updated, duplicates, rejected } = json();
  return [status, { received, accepted, inserted, updated, duplicates, rejected }];
}

/** `2026-03-01 eur 200/2`: day, currency, amount and number of events. */
export function daysFrom(api: Pick<Api, "url">) {
  return async (merchant: string, headers = accountA): Promise<unknown> => {
    const path = `/v1/revenue/${merchant}?from=2026-02-01&to=2026-04-30`;
    const { days } = (await get(api.url, path, headers)).json() as {
      days: { date: string; currency: string; amount: number; events: number }[];
    };
    return days.map((day) => `${day.date} ${day.currency} ${day.amount}/${day.events}`);
  };
}
