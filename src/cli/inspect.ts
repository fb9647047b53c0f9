/** `oncekey inspect`. Must never show a value of the request; the body of the response only where it was asked for. */
import type { InspectedKey, InspectedResponse } from "../ops.js";
import { withPlace } from "./connect.js";
import type { PlaceOptions } from "./connect.js";
import { explain, findKey } from "./find-key.js";
import type { KeyOptions } from "./find-key.js";
import { columns, duration, plain, print, printJson } from "./words.js";

export async function runInspect(
  options: PlaceOptions,
  key: KeyOptions,
  showBody: boolean,
): Promise<void> {
  const found = await withPlace(options, (place) => findKey(place, key, showBody));
  if (options.json) printJson({ ...found, response: withReadableBody(found.response) });
  else print(inWords(found));
}

/** Bytes that are no text travel as base64. */
function withReadableBody(response: InspectedResponse | undefined): object | undefined {
  if (response?.body === undefined) return response;
  const { body, ...rest } = response;
  const text = textOf(body);
  return text === undefined
    ? { ...rest, bodyBase64: body.toString("base64") }
    : { ...rest, body: text };
}

function textOf(body: Buffer): string | undefined {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(body);
  } catch {
    return undefined;
  }
}

function inWords(found: InspectedKey): string {
  const { claim, response, steps, settlements, messages } = found;
  const lease =
    found.leaseLeftMs === undefined
      ? undefined
      : found.leaseLeftMs > 0
        ? `${duration(found.leaseLeftMs)} left`
        : `over for ${duration(found.leaseLeftMs)}`;
  const parts = [
    columns([
      ["key", plain(found.key)],
      ["scope", plain(found.scope)],
      ["state", `${found.state} (${found.guarantee})`],
      ["request", `${found.method} ${plain(found.path)}`],
      ["request id", plain(found.requestId)],
      ["claim", `${claim.id}, token ${claim.token}`],
      ["attempt", claim.attempt],
      ["lease", lease],
      ["handler", found.handler === undefined ? undefined : plain(found.handler)],
      ["failures", found.handler === undefined ? undefined : found.failures],
      ["last error", found.lastError === undefined ? undefined : plain(found.lastError)],
      ["created", found.createdAt.toISOString()],
      ["completed", found.completedAt?.toISOString()],
      ["replayed until", found.replayUntil?.toISOString()],
      ["remembered until", found.dedupeUntil?.toISOString()],
    ]),
    steps.length === 0
      ? ""
      : `Recovery points:\n${steps
          .map(
            (step) =>
              `  ${step.position}  ${plain(step.name)}  ${step.kind}  ${step.state}  ${step.recordedAt.toISOString()}`,
          )
          .join("\n")}`,
    Object.keys(messages).length === 0
      ? ""
      : `Messages in the outbox:\n${columns(Object.entries(messages), "  ")}`,
    settlements.length === 0
      ? ""
      : `Settlements:\n${settlements
          .map(
            ({ outcome, by, why, at }) =>
              `  ${at.toISOString()}  ${outcome} by ${plain(by)}: ${plain(why)}`,
          )
          .join("\n")}`,
    response === undefined ? "" : responseInWords(response),
    explain(found),
  ];
  return parts.filter((part) => part !== "").join("\n\n");
}

function responseInWords(response: InspectedResponse): string {
  const headers = response.headers.flatMap(([name, value]) =>
    (typeof value === "string" ? [value] : value).map((each) => `  ${name}: ${plain(each)}`),
  );
  const { body } = response;
  const shown =
    body === undefined
      ? []
      : ["", textOf(body) === undefined ? body.toString("base64") : plain(textOf(body) as string)];
  return [
    `Response: ${response.status}${response.statusMessage === undefined ? "" : ` ${plain(response.statusMessage)}`}, ${response.bodyBytes} bytes`,
    ...headers,
    ...shown,
  ].join("\n");
}
