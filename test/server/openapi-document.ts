/** openapi.yaml as a judge of real responses. */
import { readFileSync } from "node:fs";

import { Ajv2020, type ValidateFunction } from "ajv/dist/2020.js";
import addFormats from "ajv-formats";
import { parse } from "yaml";

type HeaderSpec = { required?: boolean; schema: object };
type ResponseSpec = { headers?: Record<string, unknown>; content?: Record<string, unknown> };
type Operation = { responses: Record<string, unknown>; requestBody?: unknown };
type Document = {
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: { Problem: { properties: { code: { enum: string[] } } } } };
};

/** What a response is judged by. */
export type Judged = {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  bytes: Buffer;
};

/** Headers of ours: where one of them is sent, the document must say so. */
const ours =
  /^(?:request-id|location|idempotency-.*|idempotent-.*|original-request|retry-after|stripe-.*|www-authenticate|accept-post|allow)$/;

export const document = parse(readFileSync("openapi.yaml", "utf8")) as Document;

// Not strict: the whole document is taken as one schema, so that its references resolve, and most of it is none.
const ajv = new Ajv2020({ strict: false, allErrors: true });
addFormats.default(ajv);
ajv.addSchema({ ...document, $id: "openapi" });

/** Every documented operation as `POST /v1/charges`. */
export function operations(): string[] {
  const methods = new Set(["get", "put", "post", "patch", "delete"]);
  return Object.entries(document.paths).flatMap(([path, item]) =>
    Object.keys(item)
      .filter((name) => methods.has(name))
      .map((method) => `${method.toUpperCase()} ${path}`),
  );
}

function operationOf(name: string): { operation: Operation; pointer: string } {
  const [method = "", path = ""] = name.split(" ");
  const operation = document.paths[path]?.[method.toLowerCase()];
  if (operation === undefined) throw new Error(`${name} is not documented`);
  return { operation, pointer: `#/paths/${escaped(path)}/${method.toLowerCase()}` };
}

function escaped(part: string): string {
  return part.replaceAll("~", "~0").replaceAll("/", "~1");
}

/** Follows references, and remembers where the value stands. */
function at(pointer: string): { value: unknown; pointer: string } {
  const value = pointer
    .slice(2)
    .split("/")
    .reduce<unknown>((parent, part) => {
      const name = part.replaceAll("~1", "/").replaceAll("~0", "~");
      return (parent as Record<string, unknown> | undefined)?.[name];
    }, document);
  const { $ref } = (value ?? {}) as { $ref?: string };
  return $ref === undefined ? { value, pointer } : at($ref);
}

function validatorAt(pointer: string): ValidateFunction {
  const validate = ajv.getSchema(`openapi${pointer}`);
  if (validate === undefined) throw new Error(`there is no schema at ${pointer}`);
  return validate;
}

/** Whether a value is as the schema of this name says. */
export function fits(schema: string, value: unknown): boolean {
  return validatorAt(`#/components/schemas/${schema}`)(value);
}

/** Whether a body is one that the operation says it takes. */
export function takesBody(name: string, body: unknown): boolean {
  const { pointer } = operationOf(name);
  return validatorAt(`${pointer}/requestBody/content/application~1json/schema`)(body);
}

/** What is not as documented; empty for a good response. */
export function faultsOf(name: string, response: Judged): string[] {
  const { operation, pointer } = operationOf(name);
  const status = String(response.status);
  if (operation.responses[status] === undefined) return [`${name}: ${status} is not documented`];
  const found = at(`${pointer}/responses/${status}`);
  const spec = found.value as ResponseSpec;
  return [
    ...headerFaults(spec, found.pointer, response),
    ...contentFaults(spec, found.pointer, response),
  ].map((fault) => `${name} ${status}: ${fault}`);
}

function headerFaults(spec: ResponseSpec, pointer: string, { headers }: Judged): string[] {
  const documented = Object.keys(spec.headers ?? {});
  const undocumented = Object.keys(headers)
    .filter((name) => ours.test(name))
    .filter((name) => !documented.some((known) => known.toLowerCase() === name));
  const faults = undocumented.map((name) => `the header ${name} is not documented`);
  for (const name of documented) {
    const header = at(`${pointer}/headers/${escaped(name)}`);
    const value = headers[name.toLowerCase()];
    if (value === undefined) {
      if ((header.value as HeaderSpec).required === true) faults.push(`no header ${name}`);
      continue;
    }
    if (!validatorAt(`${header.pointer}/schema`)(value)) faults.push(`${name} is ${String(value)}`);
  }
  return faults;
}

function contentFaults(spec: ResponseSpec, pointer: string, response: Judged): string[] {
  const type = String(response.headers["content-type"]).split(";", 1)[0] as string;
  if (spec.content?.[type] === undefined) return [`${type} is not documented`];
  const text = response.bytes.toString();
  const body: unknown = type.endsWith("json") ? JSON.parse(text) : text;
  const validate = validatorAt(`${pointer}/content/${escaped(type)}/schema`);
  return validate(body) ? [] : [`${ajv.errorsText(validate.errors)} in ${text}`];
}

/** Asks and judges; what is not as it should be is in `faults` at the end. */
export function createRound(): {
  faults: string[];
  ask: <T extends Judged>(name: string, status: number, asked: Promise<T>) => Promise<T>;
} {
  const faults: string[] = [];
  const ask = async <T extends Judged>(
    name: string,
    status: number,
    asked: Promise<T>,
  ): Promise<T> => {
    const response = await asked;
    if (response.status !== status) faults.push(`${name}: ${response.status}, not ${status}`);
    faults.push(...faultsOf(name, response));
    return response;
  };
  return { faults, ask };
}
