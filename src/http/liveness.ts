/**
 * What a held response tells of itself. Owns: that it looks as Node's would after the same calls, and that neither it nor its
 * socket tells that the client is gone: pipes, `pipeline` and the `on-finished` of `res.sendFile` stop there, and the handler
 * would never end what its retry is to get.
 */
import type { ServerResponse } from "node:http";
import type { Socket } from "node:net";

/** What is faked; the real values are kept beside. */
interface Faked {
  destroyed: boolean;
  socket: Socket | null;
  writableEnded?: boolean;
  writableFinished?: boolean;
  closed?: boolean;
}

const ignore = (_value: never): void => undefined;

/**
 * Makes a response look alive, and ended once the handler has ended it. Returns what ends this. `finished` stays as it is: it is
 * by this that `server.close()` tells a connection that still owes an answer from an idle one, which it cuts.
 */
export function fakeLiveness(res: ServerResponse, isEnded: () => boolean): () => void {
  const faked = res as unknown as Faked;
  let { destroyed, socket } = faked;
  let held: HeldSocket | undefined;
  const define = (name: keyof Faked, get: () => unknown, set = ignore): void => {
    Object.defineProperty(res, name, { get, set, configurable: true, enumerable: true });
  };
  define("writableEnded", isEnded);
  define("writableFinished", () => false);
  define("closed", () => false);
  define(
    "destroyed",
    () => false,
    (value: boolean) => (destroyed = value),
  );
  define(
    "socket",
    () => {
      if (socket === null) return null;
      held ??= holdSocket(socket);
      return held.view;
    },
    (value: Socket | null) => (socket = value),
  );
  return () => {
    delete faked.writableEnded;
    delete faked.writableFinished;
    delete faked.closed;
    for (const [name, value] of Object.entries({ destroyed, socket })) {
      Object.defineProperty(res, name, {
        value,
        writable: true,
        configurable: true,
        enumerable: true,
      });
    }
    held?.letGo();
  };
}

interface HeldSocket {
  /** The socket, of which nobody learns here that it has closed. */
  readonly view: Socket;
  /** Hands what waits for the end of the socket on to the socket itself. */
  letGo(): void;
}

type Listener = (...args: unknown[]) => void;

/** Events that tell of the end of the connection. */
const ends: ReadonlySet<unknown> = new Set(["close", "error", "end"]);

function holdSocket(socket: Socket): HeldSocket {
  const waiting: [event: string, listener: Listener, isOnce: boolean][] = [];
  let isLetGo = false;
  const add = (isOnce: boolean) => (event: string, listener: Listener) => {
    if (!isLetGo && ends.has(event)) waiting.push([event, listener, isOnce]);
    else if (isOnce) socket.once(event, listener);
    else socket.on(event, listener);
    return view;
  };
  const remove = (event: string, listener: Listener) => {
    const at = waiting.findIndex(([name, known]) => name === event && known === listener);
    if (at >= 0) waiting.splice(at, 1);
    else socket.removeListener(event, listener);
    return view;
  };
  const own: Readonly<Record<string | symbol, unknown>> = {
    on: add(false),
    addListener: add(false),
    once: add(true),
    removeListener: remove,
    off: remove,
  };
  const alive: Readonly<Record<string | symbol, unknown>> = {
    writable: true,
    destroyed: false,
    closed: false,
  };
  const view = new Proxy(socket, {
    get: (target, name) => {
      if (Object.hasOwn(own, name)) return own[name];
      if (!isLetGo && Object.hasOwn(alive, name)) return alive[name];
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === "function" ? (value.bind(target) as unknown) : value;
    },
    set: (target, name, value) => Reflect.set(target, name, value, target),
  });
  return {
    view,
    letGo: () => {
      isLetGo = true;
      for (const [event, listener, isOnce] of waiting.splice(0)) {
        // The event has passed for those who waited for it here.
        if (event === "close" && socket.closed) process.nextTick(listener, socket.errored !== null);
        else if (isOnce) socket.once(event, listener);
        else socket.on(event, listener);
      }
    },
  };
}
