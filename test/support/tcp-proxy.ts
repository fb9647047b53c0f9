/** A TCP proxy on 127.0.0.1 that breaks connections at chosen or at random, but repeatable, moments. */
import { createServer, type AddressInfo, type Socket, connect } from "node:net";

export type RandomFaults = {
  /** Take `seededRandom(n)`, so that a failing run can be repeated. */
  random: () => number;
  /** Probability that the connection is reset instead of forwarding a request. */
  cutRequest?: number;
  /** Probability that a request is forwarded and the connection reset instead of passing the first reply. */
  dropReply?: number;
};

export type ProxyOptions = {
  /** Where to forward to: a URL, of which host and port are used, or a port of 127.0.0.1. */
  target: string | number;
  faults?: RandomFaults;
};

export type Cut = {
  /** Forward the bytes that hold the pattern first; default true. */
  forward?: boolean;
  /**
   * Reset only when the server has answered: what was asked for is done by then, and the client cannot know.
   * Default true; false resets at once.
   */
  afterReply?: boolean;
};

export type Hold = {
  /** Hold what the server answers to it, instead of the bytes that match: it is done by then, and the client waits. */
  reply?: boolean;
  /** Which of the matches, counting from 1; default the first. */
  nth?: number;
};

/** A connection that stands still. */
export type Held = {
  /** Passes on what was held, however late. */
  release(): void;
  /** Resets the connection; what was held is lost. */
  drop(): void;
};

export type TcpProxy = {
  readonly port: number;
  /** The same URL, by way of this proxy. */
  via(url: string): string;
  /** Connections that are open now, and those ever accepted. */
  readonly open: number;
  readonly accepted: number;
  /** How many requests `faults` has cut, and how many replies it has dropped. */
  readonly cutRequests: number;
  readonly droppedReplies: number;
  /** Resets every open connection; new ones are accepted. */
  cutAll(): void;
  /** Resets new connections at once, and all open ones. */
  refuse(): void;
  /** From now on replies of the server vanish on all connections, while requests still arrive. */
  dropReplies(): void;
  /** Holds every reply back for this long; 0 ends it. */
  delayReplies(delayMs: number): void;
  /** Ends `refuse`, `dropReplies` and `delayReplies`; what was dropped stays lost. */
  heal(): void;
  /**
   * Cuts one connection: the next that sends `pattern` (a string matches in upper and lower case). Resolves when it
   * has been cut. The lost reply to COMMIT is `proxy.cutAt("commit")`.
   */
  cutAt(pattern: string | RegExp, cut?: Cut): Promise<void>;
  /**
   * Stops one connection, so that its process can be killed or frozen at exactly this moment: at the next bytes that match.
   * Resolves when they are held.
   */
  holdAt(pattern: string | RegExp, hold?: Hold): Promise<Held>;
  close(): Promise<void>;
};

/** mulberry32: small, and equal everywhere for equal seeds. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A pattern may be split over two packets; this much of what passed before is looked at again. */
const overlap = 1_024;

type Trap = {
  pattern: RegExp;
  /** Matches that are still to come. */
  left: number;
  /** By connection, the end of what passed since the trap was set. */
  seen: WeakMap<Pair, string>;
} & (
  | { kind: "cut"; cut: Required<Cut>; sprung: () => void }
  | { kind: "hold"; reply: boolean; sprung: (held: Held) => void }
);
type Pair = {
  client: Socket;
  server: Socket;
  /** What waits while the connection stands still, in its order. */
  held?: (() => void)[];
};

function trapOf(pattern: string | RegExp, left = 1): Pick<Trap, "pattern" | "left" | "seen"> {
  const expression = typeof pattern === "string" ? new RegExp(escape(pattern), "i") : pattern;
  return { pattern: expression, left, seen: new WeakMap() };
}

/** Whether these bytes are the match that springs the trap. What passed before it was set does not count. */
function matches(trap: Trap, pair: Pair, bytes: Buffer): boolean {
  let text = (trap.seen.get(pair) ?? "") + bytes.toString("latin1");
  for (;;) {
    const found = trap.pattern.exec(text);
    if (found === null) break;
    trap.left -= 1;
    if (trap.left === 0) return true;
    text = text.slice(found.index + found[0].length);
  }
  trap.seen.set(pair, text.slice(-overlap));
  return false;
}

function escape(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}

export async function startTcpProxy({ target, faults }: ProxyOptions): Promise<TcpProxy> {
  const address = typeof target === "number" ? undefined : new URL(target);
  const upstream = {
    host: address?.hostname ?? "127.0.0.1",
    port: address === undefined ? Number(target) : Number(address.port),
  };
  const pairs = new Set<Pair>();
  const traps = new Set<Trap>();
  const state = { refusing: false, dropping: false, delayMs: 0 };
  const count = { accepted: 0, cutRequests: 0, droppedReplies: 0 };

  const resetClient = (client: Socket): void => {
    // Node leaves the handle of a socket open that is reset while it shuts down, and with it the process.
    if (client.writableEnded) client.destroy();
    else client.resetAndDestroy();
  };
  const reset = (pair: Pair): void => {
    resetClient(pair.client);
    pair.server.destroy();
  };

  const accept = (client: Socket): void => {
    client.on("error", () => {});
    if (state.refusing) return void client.resetAndDestroy();
    count.accepted += 1;
    client.setNoDelay(true);
    const server = connect({ ...upstream, noDelay: true });
    server.on("error", () => resetClient(client));
    const pair: Pair = { client, server };
    pairs.add(pair);
    let isNewRequest = true;
    let cutOnReply: (() => void) | undefined;
    let holdOnReply: (() => void) | undefined;

    const hold = (): Held => {
      pair.held ??= [];
      return {
        release: () => {
          const waiting = pair.held ?? [];
          delete pair.held;
          for (const pass of waiting) pass();
        },
        drop: () => reset(pair),
      };
    };
    const draw = (): "pass" | "cutRequest" | "dropReply" => {
      if (faults === undefined || !isNewRequest) return "pass";
      const chance = faults.random();
      const { cutRequest = 0, dropReply = 0 } = faults;
      return chance < cutRequest
        ? "cutRequest"
        : chance < cutRequest + dropReply
          ? "dropReply"
          : "pass";
    };

    client.on("data", (bytes) => {
      if (pair.held !== undefined) return inOrder(() => server.write(bytes));
      const fault = draw();
      isNewRequest = false;
      if (fault === "cutRequest") {
        count.cutRequests += 1;
        return reset(pair);
      }
      if (fault === "dropReply") cutOnReply = () => (count.droppedReplies += 1);
      const trap = [...traps].find((candidate) => matches(candidate, pair, bytes));
      if (trap !== undefined) traps.delete(trap);
      if (trap?.kind === "hold") {
        const stop = (): void => trap.sprung(hold());
        if (trap.reply) {
          holdOnReply = stop;
          server.write(bytes);
        } else {
          pair.held = [() => server.write(bytes)];
          stop();
        }
        return;
      }
      if (trap?.cut.afterReply) cutOnReply = trap.sprung;
      if (trap === undefined || trap.cut.forward) server.write(bytes);
      if (trap !== undefined && !trap.cut.afterReply) {
        // A graceful end towards the server: it still gets what was forwarded.
        resetClient(client);
        server.end();
        trap.sprung();
      }
    });
    server.on("data", (bytes) => {
      isNewRequest = true;
      if (cutOnReply !== undefined) {
        reset(pair);
        return cutOnReply();
      }
      if (state.dropping) return;
      if (pair.held !== undefined) return inOrder(() => client.write(bytes));
      if (holdOnReply !== undefined) {
        pair.held = [() => client.write(bytes)];
        holdOnReply();
        holdOnReply = undefined;
        return;
      }
      if (state.delayMs === 0) client.write(bytes);
      else setTimeout(() => client.writable && client.write(bytes), state.delayMs);
    });
    /** An end comes behind what is held, or the bytes before it would be lost. */
    const inOrder = (pass: () => void): void => {
      if (pair.held === undefined) pass();
      else pair.held.push(pass);
    };
    client.on("end", () => inOrder(() => server.end()));
    server.on("end", () => inOrder(() => setTimeout(() => client.end(), state.delayMs)));
    client.on("close", () => {
      pairs.delete(pair);
      server.destroy();
    });
    server.on("close", () => inOrder(() => setTimeout(() => client.destroySoon(), state.delayMs)));
  };

  const proxy = createServer({ allowHalfOpen: true }, accept);
  await new Promise<void>((done, fail) => {
    proxy.once("error", fail);
    proxy.listen(0, "127.0.0.1", done);
  });
  const { port } = proxy.address() as AddressInfo;
  const cutAll = (): void => pairs.forEach(reset);

  return {
    port,
    via(url) {
      const through = new URL(url);
      through.hostname = "127.0.0.1";
      through.port = String(port);
      return through.href;
    },
    get open() {
      return pairs.size;
    },
    get accepted() {
      return count.accepted;
    },
    get cutRequests() {
      return count.cutRequests;
    },
    get droppedReplies() {
      return count.droppedReplies;
    },
    cutAll,
    refuse() {
      state.refusing = true;
      cutAll();
    },
    dropReplies() {
      state.dropping = true;
    },
    delayReplies(delayMs) {
      state.delayMs = delayMs;
    },
    heal() {
      Object.assign(state, { refusing: false, dropping: false, delayMs: 0 });
    },
    cutAt(pattern, { forward = true, afterReply = forward } = {}) {
      const cut = { forward, afterReply: forward && afterReply };
      return new Promise((sprung) => {
        traps.add({ ...trapOf(pattern), kind: "cut", cut, sprung });
      });
    },
    holdAt(pattern, { reply = false, nth = 1 } = {}) {
      return new Promise((sprung) => {
        traps.add({ ...trapOf(pattern, nth), kind: "hold", reply, sprung });
      });
    },
    async close() {
      cutAll();
      await new Promise<void>((done) => {
        proxy.close(() => done());
      });
    },
  };
}
