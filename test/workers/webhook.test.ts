import { createHmac } from "node:crypto";

import { Webhook } from "standardwebhooks";

import { webhookDestination, type OutgoingMessage, type WebhookOptions } from "../../src/outbox.js";
import { testSecret } from "./outbox-messages.js";
import { startReceiver, type Received, type Receiver } from "./receiver.js";

const message: OutgoingMessage = {
  eventId: "evt_CGmw-8DaWzsU-9tmg09973lvMwPN4temAE4f5FAwxqY",
  topic: "order.paid",
  payload: '{"amount": 1.50,  "name": "Zoë"}',
  scope: "acme",
  key: "a private key",
  attempt: 1,
  createdAtMs: Date.now() - 1_000,
  attemptedAtMs: Date.now(),
};
const otherSecret = `whsec_${Buffer.from("another secret of thirty-two byt").toString("base64")}`;
let receiver: Receiver;

beforeEach(async () => {
  receiver = await startReceiver();
});
afterEach(() => receiver.close());

const never = new AbortController().signal;

async function send(given: Partial<WebhookOptions> = {}, sent = message): Promise<Received> {
  const destination = webhookDestination({ url: receiver.url, secret: testSecret, ...given });
  await destination.deliver(sent, { signal: never });
  return receiver.received.at(-1) as Received;
}

const verify = (secret: string, { body, headers }: Received): unknown =>
  new Webhook(secret).verify(body, headers as Record<string, string>);

test("sends the stored text and nothing of the key, signed as receivers expect", async () => {
  const request = await send();
  expect(request.body).toBe(message.payload);
  expect(request.headers).toMatchObject({
    "content-type": "application/json",
    "webhook-id": message.eventId,
    "webhook-timestamp": String(Math.floor(message.attemptedAtMs / 1_000)),
  });
  expect(JSON.stringify(request.headers)).not.toContain(message.key);
  expect(verify(testSecret, request)).toEqual({ amount: 1.5, name: "Zoë" });
});

test("signs id, timestamp and body, by a computation of its own", async () => {
  const { headers, body } = await send();
  const key = Buffer.from(testSecret.slice("whsec_".length), "base64");
  const signed = [headers["webhook-id"], headers["webhook-timestamp"], body].join(".");
  const expected = createHmac("sha256", key).update(signed).digest("base64");
  expect(headers["webhook-signature"]).toBe(`v1,${expected}`);
});

test("a receiver refuses another body, id, time or secret", async () => {
  const request = await send();
  const forged = (headers: object, body = request.body): Received => ({
    ...request,
    body,
    headers: { ...request.headers, ...headers },
  });
  expect(() => verify(otherSecret, request)).toThrow("No matching signature");
  expect(() => verify(testSecret, forged({}, `${request.body} `))).toThrow();
  expect(() => verify(testSecret, forged({ "webhook-id": "evt_other" }))).toThrow();
  const later = String(Math.floor(message.attemptedAtMs / 1_000) + 1);
  expect(() => verify(testSecret, forged({ "webhook-timestamp": later }))).toThrow();
});

test("while secrets rotate, receivers with the old and with the new one accept it", async () => {
  const request = await send({ secret: [otherSecret, testSecret] });
  expect(String(request.headers["webhook-signature"]).split(" ")).toHaveLength(2);
  expect(verify(testSecret, request)).toEqual({ amount: 1.5, name: "Zoë" });
  expect(verify(otherSecret, request)).toEqual({ amount: 1.5, name: "Zoë" });
});

test("the topic chooses the endpoint and its secret", async () => {
  const request = await send({
    url: (topic) => `${receiver.url}/${topic}`,
    secret: (topic) => (topic === "order.paid" ? otherSecret : testSecret),
  });
  expect(request.path).toBe("/hook/order.paid");
  expect(verify(otherSecret, request)).toBeDefined();
});

test("an address that the topic has not is a failure that can be mended", async () => {
  const url = (): string => "file:///etc/passwd";
  await expect(send({ url })).rejects.toThrow("url: must be an http or https URL");
});

test("ends at once when it is told to", async () => {
  receiver.answer = () => new Promise(() => undefined);
  const stop = new AbortController();
  const destination = webhookDestination({ url: receiver.url, secret: testSecret });
  const delivery = destination.deliver(message, { signal: stop.signal });
  stop.abort();
  await expect(delivery).rejects.toThrow("the endpoint could not be reached");
});

test.each([
  [{ url: "ftp://example.com", secret: testSecret }, "url"],
  [{ url: "https://user:word@example.com", secret: testSecret }, "url: must not hold credentials"],
  [{ url: "https://example.com", secret: "whsec_c2hvcnQ=" }, "secret: must be whsec_ and 24"],
  [{ url: "https://example.com", secret: "a secret of more than twenty-four" }, "secret"],
  [{ url: "https://example.com", secret: [] }, "secret"],
  [{ url: "https://example.com", secret: testSecret, retries: 3 }, "retries: is not an option"],
])("options %j are refused", (options, text) => {
  expect(() => webhookDestination(options as WebhookOptions)).toThrow(text);
});
