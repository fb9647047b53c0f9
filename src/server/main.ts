/**
 * The life of the server: start, serve, stop. Owns: whether it is one process or several, and what a signal means.
 */
import { startCluster } from "./cluster.js";
import { readConfig } from "./config.js";
import type { ServerConfig } from "./config.js";
import { createLogger } from "./observation.js";
import { startServer } from "./start.js";
import type { RunningServer, StartOptions } from "./start.js";

/** Longer than any request may take; a supervisor's own patience should be longer still. */
const shutdownTimeoutMs = 30_000;
/** npm passes on the Ctrl-C that the terminal has sent to this process too: two signals this close are one. */
const sameSignalMs = 1_000;

/**
 * Runs the server until SIGTERM or SIGINT, and answers the exit code. The first signal drains; a second one, or 30 s without
 * an end, exits at once: whatever was not stored by then is settled as after a crash.
 */
export async function serve(
  env: Readonly<Record<string, string | undefined>> = process.env,
): Promise<number> {
  const say = (line: string): void => void process.stdout.write(`${line}\n`);
  const config = readConfig(env, process.stderr.isTTY);
  const stop = listenForSignals(say);
  const options = { say, stop: stop.signal };
  const running = await start(config, options);
  say(tryItOut(running.url, config));
  const failure = await Promise.race([stop.requested, running.failed ?? stop.requested]);
  const timer = setTimeout(() => {
    say(`Not finished after ${shutdownTimeoutMs / 1_000} s.`);
    process.exit(1);
  }, shutdownTimeoutMs);
  try {
    await running.close();
    if (failure !== undefined) process.stderr.write(`${failure.message}\n`);
    const code = failure === undefined ? 0 : 1;
    // Node never lets go of a connection that it was just handing to a worker that died; it must not keep this process.
    if (config.processes > 1) process.exit(code);
    return code;
  } catch (error) {
    createLogger(config.logLevel).error({ err: error }, "shutdown failed");
    return 1;
  } finally {
    clearTimeout(timer);
  }
}

function start(config: ServerConfig, options: StartOptions): Promise<RunningServer> {
  return config.processes === 1 ? startServer(config, options) : startCluster(config, options);
}

/** Listened for from the first moment: a signal during the start must not leave an embedded Postgres behind. */
function listenForSignals(say: (line: string) => void): {
  readonly requested: Promise<undefined>;
  readonly signal: AbortSignal;
} {
  const controller = new AbortController();
  let firstAt: number | undefined;
  const requested = new Promise<undefined>((resolve) => {
    const handle = (signal: NodeJS.Signals): void => {
      const now = performance.now();
      if (firstAt === undefined) {
        firstAt = now;
        say(`${signal}: finishing what runs.`);
        controller.abort();
        resolve(undefined);
      } else if (now - firstAt >= sameSignalMs) {
        say(`${signal} again: exiting at once.`);
        process.exit(1);
      }
    };
    for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, handle);
  });
  return { requested, signal: controller.signal };
}

/** A command that works as it is printed; a key that is not the public demo key is never shown. */
function tryItOut(url: string, config: ServerConfig): string {
  const key = config.accounts.has("sk_test_demo") ? "sk_test_demo" : "$API_KEY";
  return [
    "",
    "Charge a card, then send the same command again: one charge, and the same answer byte for byte.",
    "",
    `  curl -i ${url}/v1/charges \\`,
    `    -H "Authorization: Bearer ${key}" \\`,
    '    -H "Idempotency-Key: order-1042-charge" \\',
    '    -H "Content-Type: application/json" \\',
    `    -d '{"amount": 2000, "currency": "eur", "source": "tok_visa"}'`,
    "",
  ].join("\n");
}
