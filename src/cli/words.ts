/** How commands put counts, times and lists on a terminal. */

const second = 1_000;
const minute = 60 * second;
const hour = 60 * minute;
const day = 24 * hour;

/** A duration as people say it: two digits are enough. */
export function duration(ms: number): string {
  const abs = Math.abs(ms);
  if (abs < second) return `${Math.round(abs)} ms`;
  if (abs < 2 * minute) return `${Math.round(abs / second)} s`;
  if (abs < 2 * hour) return `${Math.round(abs / minute)} min`;
  if (abs < 2 * day) return `${Math.round(abs / hour)} h`;
  return `${Math.round(abs / day)} days`;
}

/** Names and values in two columns; entries without a value are left out. */
export function columns(
  entries: readonly (readonly [name: string, value: string | number | undefined])[],
  indent = "",
): string {
  const shown = entries.filter(([, value]) => value !== undefined);
  const width = Math.max(0, ...shown.map(([name]) => name.length));
  return shown.map(([name, value]) => `${indent}${name.padEnd(width)}  ${value}`).join("\n");
}

/** What came from a client or an error can hold anything; a terminal must not act on it. */
export function plain(text: string): string {
  // oxlint-disable-next-line no-control-regex -- these are the characters that are meant
  return text.replaceAll(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "\ufffd");
}

export function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

export function printJson(value: unknown): void {
  print(JSON.stringify(value, null, 2));
}
