/** The receipt of a checkout reaches its webhook, signed, with the event's stable id. */
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";

import { Webhook } from "standardwebhooks";

import { type Provider, startProvider } from "../../src/server/provider.js";
import { waitFor } from "../support/wait-for.js";
import { checkout, newKey, post, useApi } from "./api.js";
import { newLedgerFile } from "./provider-bench.js";

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
let provider: Provider;
beforeAll(async () => {
  provider = await startProvider({ ledgerFile: newLedgerFile() });
});
afterAll(() => provider.close());
const api = useApi();

test("a paid checkout's receipt is delivered once, and a retry sends no other", async () => {
  const received: { headers: Record<string, string>; body: string }[] = [];
  const receiver = createServer((req, res) => {
    let body = "";
    req.setEncoding("utf8").on("data", (chunk: string) => (body += chunk));
    req.on("end", () => {
      received.push({ headers: req.headers as Record<string, string>, body });
      res.statusCode = 204;
      res.end();
    });
  });
  await new Promise<void>((resolve) => receiver.listen(0, "127.0.0.1", resolve));
  const { port } = receiver.address() as AddressInfo;
  const server = await api.another({
    PROVIDER_URL: provider.url,
    RECEIPTS_URL: `http://127.0.0.1:${port}/receipts`,
    RECEIPTS_SECRET: secret,
  });
  const key = newKey();
  const made = await post(server.url, "/v1/checkouts", checkout, { "Idempotency-Key": key });
  expect(made.status).toBe(201);
  await waitFor(() => received.length > 0, { what: "the receipt" });
  await post(server.url, "/v1/checkouts", checkout, { "Idempotency-Key": key });
  const [receipt] = received;
  const verified = new Webhook(secret).verify(receipt?.body ?? "", receipt?.headers ?? {});
  expect(verified).toMatchObject({ checkout: made.json()["id"] });
  expect(receipt?.headers["webhook-id"]).toMatch(/^evt_/);
  expect(received).toHaveLength(1);
  await new Promise((resolve) => receiver.close(resolve));
});
