/** The matrix as docs/compatibility.md: of what the tests run, and nothing else. */
import { readFileSync } from "node:fs";

import { caseNames, caseOf, type CaseName } from "./cases.js";
import { rowOf, type Framework } from "./framework.js";
import { transactionRowNames, transactionRows } from "./transactions.js";

/** Collects what stands under a table, each text once. */
class Notes {
  readonly #texts: string[] = [];

  /** The mark of a text, counted from 1. */
  mark(text: string): string {
    if (!this.#texts.includes(text)) this.#texts.push(text);
    return `<sup>${this.#texts.indexOf(text) + 1}</sup>`;
  }

  toString(): string {
    return this.#texts.map((text, index) => `${index + 1}. ${text}`).join("\n");
  }
}

function cellOf(framework: Framework, name: CaseName, notes: Notes): string {
  const reason = framework.absent[name];
  if (reason !== undefined) return `–${notes.mark(sentence(reason))}`;
  const { outcome, note } = rowOf(framework, name);
  return `${outcome?.cell ?? "✓"}${note === undefined ? "" : notes.mark(note)}`;
}

function sentence(reason: string): string {
  const [first = "", ...rest] = reason;
  return `${first.toUpperCase()}${rest.join("")}.`;
}

function versionOf(packageName: string): string {
  const { version } = JSON.parse(
    readFileSync(`node_modules/${packageName}/package.json`, "utf8"),
  ) as { version: string };
  return version;
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`;
  return [line(head), `|${"---|".repeat(head.length)}`, ...rows.map(line)].join("\n");
}

const intro = `# Compatibility

What a handler may do, framework by framework. This page is written by the test that tries it (\`npm run matrix\`), and the test fails
where the page says something else.

Every cell is tried over raw sockets, against an app that is the same but for the middleware, and on three stores: memory, Postgres,
and Postgres with Redis. The retry goes to another process where the store has more than one.

- **✓**: the first answer is what the app alone sends: status line, headers in their case, order and repetition, and body. The retry
  gets the same bytes again, and the handler has run once.
- Another word is what the retry gets, and the note says why.
- **–**: the framework has no such thing.

What differs between the app alone, the first answer and a replay is this list and nothing else:

- \`Date\` and \`Connection\` are those of the answer that is sent.
- The headers of this library: \`Idempotency-Key\`, \`Original-Request\`, \`Idempotency-Expires\`, \`Idempotency-Stored\`, and on a
  replay \`Idempotent-Replayed\`.
- A held response has its length. Where the app alone would send chunks, \`Content-Length\` stands in place of
  \`Transfer-Encoding\`, in the first answer as in its replays.
- \`Set-Cookie\` is in the first answer and in no replay.
- Whatever else a note says.
`;

/** The whole page. */
export function renderDocument(frameworks: readonly Framework[]): string {
  const plain = new Notes();
  const rows = caseNames.map((name) => [
    caseOf(name).title,
    ...frameworks.map((framework) => cellOf(framework, name, plain)),
  ]);
  const titles = frameworks.map(({ title }) => title);
  const inTransactions = new Notes();
  const transactions = transactionRowNames.map((name) => [
    caseOf(name).title,
    ...frameworks.map((framework) => {
      const reason = framework.absent[name];
      if (reason !== undefined) return `–${inTransactions.mark(sentence(reason))}`;
      const { note } = rowOf(framework, name);
      const mark = note === undefined ? "" : inTransactions.mark(note);
      return `${transactionRows[name] === "committed" ? "✓" : "rolled back"}${mark}`;
    }),
  ]);
  const versions = frameworks
    .filter((framework) => framework.package !== "")
    .map((framework) => [framework.versionTitle ?? framework.title, versionOf(framework.package)]);
  return [
    intro,
    `## Plain routes\n\n${table(["handler", ...titles], rows)}\n\n${plain.toString()}\n`,
    `## Transaction routes\n\n${transactionText}\n\n${table(["handler", ...titles], transactions)}\n\n${inTransactions.toString()}\n`,
    `## How each is mounted\n\n${mounting}\n`,
    `## Versions\n\nThe matrix is run with these.\n\n${table(["framework", "version"], versions)}\n`,
  ].join("\n");
}

const transactionText = `Each handler writes a row through \`tx\`, on Postgres and on Postgres with Redis. **✓**: as above, and the row is there once.
**rolled back**: nothing was written, the client gets what the app alone answers, and a retry runs again.

A handler must not wait for the end of its own response: it leaves after the commit, and the commit waits for the handler. So
\`pipeline(source, res)\` is not awaited there.`;

const mounting = `- **Express, connect**: \`app.post(path, idempotent(), handler)\` behind the body parser.
- **node:http**: the app parses the body into \`req.body\`, then calls \`idempotent()(req, res, next)\`. \`next(error)\` is for its error
  handling, \`next()\` runs the handler.
- **NestJS** (on Express): \`consumer.apply(idempotent()).forRoutes(path)\` in a module's \`configure\`; what a controller returns,
  throws or writes to \`@Res()\` is its answer. \`app.use\` comes in front of Nest's body parser and is too early. Guards run behind
  middleware: what must be refused before a key is taken, such as a caller that is not authenticated, is the business of a
  middleware in front. A transaction route is called by a controller's method with \`@Req()\`, \`@Res()\` and \`@Next()\`.
- **Fastify**: the plugin \`oncekey/fastify\`, and \`config: { idempotency: true }\` on the route. What Fastify has no way of its own
  for is written to \`reply.raw\` after \`reply.hijack()\`.
- **Hono, Request → Response**: \`oncekey/fetch\`, both tried on Hono's server for Node. Names of headers are in lower case and in
  alphabetical order, as the standard's \`Headers\` has them, with the middleware and without.`;
