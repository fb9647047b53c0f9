/**
 * Fields of a request that do not count. Owns: how they are named, and taking them out of what is compared. Must never take out
 * more than was named: what is gone is compared by nobody.
 */
import { isTaggedNumber } from "./exact-json.js";

/** Named fields, ready to be taken out. */
export interface IgnoredFields {
  /** What follows `body` in each name: `.sentAt`, `.items[0].note`. */
  readonly body: readonly string[];
  /** Names of query parameters. */
  readonly query: ReadonlySet<string>;
}

const queryName = /^query\.(.+)$/s;
const bodyName = /^body((?:\.[^.[\]]+|\[(?:\d+|\*)\])+)$/s;

/** True for a name in the language of `differs` that names a part of the body or of the query, and not all of it. */
export function isFieldName(name: string): boolean {
  return queryName.test(name) || bodyName.test(name);
}

/** Sorts names that {@link isFieldName} accepts by where they apply. */
export function toIgnoredFields(names: readonly string[]): IgnoredFields {
  const matched = (pattern: RegExp): string[] =>
    names.flatMap((name) => pattern.exec(name)?.[1] ?? []);
  return { body: matched(bodyName), query: new Set(matched(queryName)) };
}

/**
 * The value without its ignored fields. An item of an array leaves null in its place, so that the others keep theirs. A name
 * with a dot in it is met by the path that reads the same, as in `differs`.
 */
export function withoutFields(value: unknown, paths: readonly string[]): unknown {
  if (paths.length === 0 || typeof value !== "object" || value === null || isTaggedNumber(value))
    return value;
  if (Array.isArray(value)) {
    return value.map((item: unknown, index) => {
      const rest = restAfter(paths, [`[${index}]`, "[*]"]);
      return rest.includes("") ? null : withoutFields(item, rest);
    });
  }
  const kept = Object.entries(value).flatMap(([name, child]: [string, unknown]) => {
    const rest = restAfter(paths, [`.${name}`]);
    return rest.includes("") ? [] : [[name, withoutFields(child, rest)] as const];
  });
  return Object.fromEntries(kept);
}

/** What is left of the paths that begin with one of these, up to the next name. */
function restAfter(paths: readonly string[], heads: readonly string[]): string[] {
  return paths.flatMap((path) =>
    heads
      .filter((head) => path.startsWith(head))
      .map((head) => path.slice(head.length))
      .filter((rest) => rest === "" || rest.startsWith(".") || rest.startsWith("[")),
  );
}
