/**
 * Results and requests of steps as JSON and back, with dates, bigints, bytes, maps and sets intact. Owns: the format that
 * recovery points of running requests are in; a change must still read what the version before wrote.
 */
import SuperJSON from "superjson";

const json = new SuperJSON();
json.registerCustom<Buffer, string>(
  {
    isApplicable: (value): value is Buffer => Buffer.isBuffer(value),
    serialize: (value) => value.toString("base64"),
    deserialize: (text) => Buffer.from(text, "base64"),
  },
  "Buffer",
);

/** As JSON text. */
export function serialise(value: unknown): string {
  return json.stringify(value);
}

/** From a JSON value, as a driver has parsed it. */
export function deserialise(stored: unknown): unknown {
  return json.deserialize(stored as Parameters<typeof json.deserialize>[0]);
}
