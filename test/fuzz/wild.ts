/** Bodies and parts of paths that are nearly right, or nothing like it. */
import type { Draw } from "./draw.js";

/** For a path or a form, where half a surrogate pair has no bytes. */
function urlText(text: string): string {
  return encodeURIComponent(text.replaceAll(/\p{Surrogate}/gu, "\ufffd"));
}

/** A part of a path or a query. */
export function oddPart(draw: Draw): string {
  return draw.pick(["%00", "%ff", "..%2f..", "%", "ch_", draw.hex(24), urlText(draw.text())]);
}

/** By kind; the fields are those of a valid body. */
const bodies = {
  field: (draw: Draw, fields: object) => {
    const name = draw.pick([...Object.keys(fields), draw.text()]);
    return JSON.stringify({ ...fields, [name]: draw.value() });
  },
  value: (draw: Draw) => JSON.stringify(draw.value()) ?? "",
  number: (draw: Draw) => {
    const odd = ["9007199254740993", "1e400", "-0", "1.0", "1E2", "0x10", "01", "١"];
    return `{"amount":${draw.pick(odd)},"currency":"eur","source":"tok_visa"}`;
  },
  prototype: (draw: Draw) => {
    const name = draw.pick(["__proto__", "constructor", "toString", "hasOwnProperty"]);
    const member = `"${name}":${JSON.stringify(draw.value()) ?? "1"}}`;
    return `{"amount":5,"currency":"eur","source":"tok_visa","metadata":{${member},${member}`;
  },
  deep: (draw: Draw) => {
    const depth = 1 + draw.int(16_000);
    const isObject = draw.chance(0.5);
    const [before, after] = isObject ? ['{"a":', "}"] : ["[", "]"];
    return `${before.repeat(depth)}1${after.repeat(depth)}`;
  },
  bytes: (draw: Draw) => draw.bytes(draw.int(200)),
  form: (draw: Draw) => {
    const name = `${draw.pick(["", "a[b]", "a[][]", "__proto__"])}[${urlText(draw.text())}]`;
    return `amount=5&currency=eur&source=tok_visa&${name}=${urlText(draw.text())}&&=%`;
  },
};
const bodyWeights = { field: 6, value: 4, number: 2, prototype: 1, deep: 1, bytes: 1, form: 1 };

/** A body made of the fields of a valid one, or of nothing. */
export function wildBytes(draw: Draw, fields: object): Buffer {
  const body = bodies[draw.weighted(bodyWeights)](draw, fields);
  return typeof body === "string" ? Buffer.from(body) : body;
}
