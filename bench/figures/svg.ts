/**
 * Plots of results as SVG text. Owns: how figures are drawn. Written out by hand, since what is needed is three shapes.
 */

/** A bar, with the span that its rounds took. */
export interface Bar {
  readonly label: string;
  readonly value: number;
  readonly low: number;
  readonly high: number;
  readonly isOurs: boolean;
}

/** A row of marks, such as the percentiles of a latency. */
export interface Marks {
  readonly label: string;
  readonly isOurs: boolean;
  readonly at: readonly { readonly name: string; readonly value: number }[];
}

const width = 760;
const left = 250;
const right = 70;
const rowHeight = 26;
const top = 40;
const ours = "#0b7285";
const others = "#adb5bd";
const ink = "#343a40";

const escaped = (raw: string): string =>
  raw.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll('"', "&quot;");
const rounded = (value: number): number => Math.round(value * 10) / 10;

function text(x: number, y: number, content: string, more = ""): string {
  return `<text x="${rounded(x)}" y="${rounded(y)}" ${more}>${escaped(content)}</text>`;
}

function page(title: string, height: number, parts: readonly string[]): string {
  const style = `font-family="system-ui, sans-serif" font-size="12" fill="${ink}"`;
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" role="img" aria-label="${escaped(title)}" ${style}>\n` +
    `<rect width="100%" height="100%" fill="#fff"/>\n${text(12, 22, title, 'font-weight="600" font-size="14"')}\n${parts.join("\n")}\n</svg>\n`
  );
}

/** Bars from zero; `line` is a value that is marked, such as 1. */
export function barPlot(title: string, bars: readonly Bar[], line: number): string {
  const most = Math.max(line, ...bars.map(({ high }) => high)) * 1.02;
  const x = (value: number): number => left + (value / most) * (width - left - right);
  const bottom = top + bars.length * rowHeight;
  const parts = bars.flatMap(({ label, value, low, high, isOurs }, index) => {
    const y = top + index * rowHeight;
    const middle = y + rowHeight / 2;
    return [
      text(left - 8, middle + 4, label, 'text-anchor="end"'),
      `<rect x="${left}" y="${y + 4}" width="${rounded(x(value) - left)}" height="${rowHeight - 8}" fill="${isOurs ? ours : others}"/>`,
      `<path d="M${rounded(x(low))} ${middle}H${rounded(x(high))}" stroke="${ink}" stroke-width="1.5"/>`,
      text(width - right + 8, middle + 4, value.toFixed(2)),
    ];
  });
  const mark = `<path d="M${rounded(x(line))} ${top}V${bottom}" stroke="${ink}" stroke-dasharray="3 3"/>`;
  return page(title, bottom + 14, [...parts, mark]);
}

/** Marks on an axis of powers of ten. */
export function markPlot(title: string, rows: readonly Marks[], unit: string): string {
  const values = rows.flatMap(({ at }) => at.map(({ value }) => value));
  const first = Math.floor(Math.log10(Math.min(...values)));
  const last = Math.ceil(Math.log10(Math.max(...values)));
  const x = (value: number): number =>
    left + ((Math.log10(value) - first) / (last - first)) * (width - left - right);
  const bottom = top + rows.length * rowHeight;
  const axis = Array.from({ length: last - first + 1 }, (_, index) => 10 ** (first + index));
  const grid = axis.flatMap((value) => [
    `<path d="M${rounded(x(value))} ${top}V${bottom}" stroke="#dee2e6"/>`,
    text(x(value), bottom + 16, `${value} ${unit}`, 'text-anchor="middle"'),
  ]);
  const parts = rows.flatMap(({ label, at, isOurs }, index) => {
    const middle = top + index * rowHeight + rowHeight / 2;
    const color = isOurs ? ours : "#868e96";
    const ends = at.map(({ value }) => x(value));
    return [
      text(left - 8, middle + 4, label, 'text-anchor="end"'),
      `<path d="M${rounded(Math.min(...ends))} ${middle}H${rounded(Math.max(...ends))}" stroke="${color}" stroke-width="2"/>`,
      ...at.map(
        ({ name, value }) =>
          `<circle cx="${rounded(x(value))}" cy="${middle}" r="4" fill="${color}"><title>${escaped(`${label}, ${name}: ${value} ${unit}`)}</title></circle>`,
      ),
    ];
  });
  return page(title, bottom + 28, [...grid, ...parts]);
}

/** A function with what it calls; amounts are of any unit. */
export interface Flame {
  readonly name: string;
  readonly amount: number;
  readonly children: readonly Flame[];
  readonly isOurs: boolean;
}

const flameHeight = 15;
const narrowest = 0.8;
const flameLeft = 8;
const letterWidth = 6.2;

/** The root at the top, callees below; what is narrower than a pixel is left out. */
export function flamePlot(title: string, root: Flame): string {
  const scale = (width - 2 * flameLeft) / root.amount;
  let deepest = 0;
  const draw = ({ name, amount, children, isOurs }: Flame, x: number, depth: number): string[] => {
    const size = amount * scale;
    if (size < narrowest) return [];
    deepest = Math.max(deepest, depth);
    const y = top + depth * flameHeight;
    const share = ((amount / root.amount) * 100).toFixed(1);
    const room = Math.floor((size - 4) / letterWidth);
    const label = room >= 3 ? [text(x + 2, y + 11, name.slice(0, room), 'font-size="10"')] : [];
    let next = x;
    const below = [...children]
      .sort((a, b) => b.amount - a.amount)
      .flatMap((child) => {
        const drawn = draw(child, next, depth + 1);
        next += child.amount * scale;
        return drawn;
      });
    const box = `<rect x="${rounded(x)}" y="${y}" width="${rounded(size)}" height="${flameHeight - 1}" fill="${isOurs ? "#99e9f2" : "#ffe8cc"}"><title>${escaped(name)} ${share} %</title></rect>`;
    return [box, ...label, ...below];
  };
  const parts = draw(root, flameLeft, 0);
  return page(title, top + (deepest + 1) * flameHeight + 10, parts);
}
