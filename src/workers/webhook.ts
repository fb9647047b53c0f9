/**
 * Delivery to an HTTP endpoint, as the Standard Webhooks specification has it. Owns: the request, its signatures, and what
 * each answer means. Must never follow a redirect, nor take an address from anywhere but the operator's options.
 */
import { Webhook } from "standardwebhooks";
import { z } from "zod";
import { checkOptions } from "./check-options.js";
import { deliveryError } from "./destination.js";
import type { Destination, OutgoingMessage } from "./destination.js";

export interface WebhookOptions {
  /** Where to send: an http or https URL, or a function of the topic. Redirects are failures and never followed. */
  readonly url: string | ((topic: string) => string);
  /**
   * `whsec_` and 24 to 64 random bytes in base64, one for each endpoint. Several while rotating: the message carries one
   * signature of each, so that receivers can change over in their own time. A function of the topic where `url` is one.
   */
  readonly secret: string | readonly string[] | ((topic: string) => string | readonly string[]);
  /** How long an endpoint may take to answer, in ms. Default 20 s; the specification recommends 15 to 30 s. */
  readonly timeoutMs?: number;
}

const defaultTimeoutMs = 20_000;
/** Read so that the connection can be used again; of a longer answer the connection is given up. */
const maxAnswerBytes = 64 * 1024;
const gone = 410;

const shape = z.strictObject({
  url: z.union([z.string(), z.custom(isFunction)]),
  secret: z.union([z.string(), z.array(z.string()).min(1).max(10), z.custom(isFunction)]),
  timeoutMs: z.number().int().min(1).max(300_000).optional(),
});

/**
 * A destination that POSTs the stored JSON text to an endpoint, signed per https://www.standardwebhooks.com: `webhook-id` is
 * the stable event id, `webhook-timestamp` the time of the attempt, `webhook-signature` one `v1` HMAC-SHA256 for each secret.
 *
 * 2xx is success; 410 sets the message aside at once; anything else is a failed attempt, after which a `Retry-After` of
 * the answer is honoured.
 */
export function webhookDestination(options: WebhookOptions): Destination {
  checkOptions("webhookDestination", shape, options, [
    ...(typeof options?.url === "string" ? urlProblems(options.url) : []),
    ...(isFunction(options?.secret) ? [] : secretProblems(options?.secret as string)),
  ]);
  const { url, secret, timeoutMs = defaultTimeoutMs } = options;
  return {
    deliver: async (message, { signal }) => {
      const target = typeof url === "function" ? url(message.topic) : url;
      const secrets = typeof secret === "function" ? secret(message.topic) : secret;
      const problems = [...urlProblems(target), ...secretProblems(secrets)];
      if (problems.length > 0) throw deliveryError(problems.join("; "));
      const timeout = AbortSignal.timeout(timeoutMs);
      const response = await fetch(target, {
        method: "POST",
        redirect: "manual",
        headers: { "content-type": "application/json", ...signatureHeaders(message, secrets) },
        body: message.payload,
        signal: AbortSignal.any([signal, timeout]),
      }).catch((error: unknown) => {
        if (timeout.aborted) throw deliveryError(`no answer within ${timeoutMs} ms`);
        throw deliveryError(`the endpoint could not be reached (${codeOf(error)})`, {
          cause: error,
        });
      });
      await drain(response);
      if (response.ok) return;
      throw deliveryError(`the endpoint answered ${response.status}`, {
        isPermanent: response.status === gone,
        retryAfterMs: retryAfterMs(response, message.attemptedAtMs),
      });
    },
  };
}

/** The metadata of the specification; signed is `id.timestamp.body`. */
function signatureHeaders(
  message: OutgoingMessage,
  secrets: string | readonly string[],
): Record<string, string> {
  const timestamp = new Date(message.attemptedAtMs);
  const signatures = [secrets]
    .flat()
    .map((secret) => new Webhook(secret).sign(message.eventId, timestamp, message.payload));
  return {
    "webhook-id": message.eventId,
    "webhook-timestamp": String(Math.floor(message.attemptedAtMs / 1_000)),
    "webhook-signature": signatures.join(" "),
  };
}

/** RFC 9110, section 10.2.3: seconds, or a date, which is compared with the Date of the same answer. */
function retryAfterMs(response: Response, attemptedAtMs: number): number | undefined {
  const value = response.headers.get("retry-after")?.trim() ?? "";
  if (/^\d{1,9}$/.test(value)) return Number(value) * 1_000;
  const until = Date.parse(value);
  if (Number.isNaN(until)) return undefined;
  const now = Date.parse(response.headers.get("date") ?? "");
  return Math.max(0, until - (Number.isNaN(now) ? attemptedAtMs : now));
}

/** The status has decided; what comes of the rest of the answer changes nothing. */
async function drain(response: Response): Promise<void> {
  let bytes = 0;
  try {
    for await (const chunk of response.body ?? []) {
      bytes += (chunk as Uint8Array).length;
      if (bytes > maxAnswerBytes) return;
    }
  } catch {
    // Cut short by the endpoint or by our time-out.
  }
}

/** Node's fetch hides the reason one level down. */
function codeOf(error: unknown): string {
  const cause = (error as { cause?: { code?: unknown } } | undefined)?.cause;
  if (typeof cause?.code === "string") return cause.code;
  return error instanceof Error ? error.name : "unknown";
}

function urlProblems(url: unknown): string[] {
  const parsed = typeof url === "string" && URL.canParse(url) ? new URL(url) : undefined;
  if (parsed === undefined || !/^https?:$/.test(parsed.protocol))
    return ["url: must be an http or https URL"];
  return parsed.username + parsed.password === "" ? [] : ["url: must not hold credentials"];
}

/** The specification asks for 24 to 64 bytes; the reference library would take any text for base64. */
function secretProblems(secrets: string | readonly string[]): string[] {
  const isSecret = (secret: unknown): boolean => {
    if (typeof secret !== "string" || !/^whsec_[A-Za-z0-9+/]+={0,2}$/.test(secret)) return false;
    const text = secret.slice("whsec_".length);
    const bytes = Buffer.from(text, "base64");
    return bytes.length >= 24 && bytes.length <= 64 && bytes.toString("base64") === text;
  };
  const given = [secrets].flat();
  const isGood = given.length > 0 && given.every(isSecret);
  return isGood ? [] : ["secret: must be whsec_ and 24 to 64 bytes in base64"];
}

function isFunction(value: unknown): boolean {
  return typeof value === "function";
}
