/**
 * What a held response tells of its connection. Owns: that neither it nor its socket tells that the client is gone: pipes,
 * `pipeline` and the `on-finished` of `res.sendFile` stop there, and the handler would never end what its retry is to get.
 */
import type { ServerResponse } from "node:http";
import type { Socket } from "node:net";

/** What Node keeps of a connection on its response. */
interface Connection extends Pick<ServerResponse, "once"> {
  readonly req: { socket: Socket };
  destroyed: boolean;
  /** What the getter `closed` tells. */
  _closed: boolean;
  socket: Socket | null;
}

/**
 * Makes a response look as if its client were there. `finished` stays as it is: it is by this that `server.close()` tells a
 * connection that still owes an answer from an idle one, which it cuts.
 */
export class Liveness {
  readonly #res: Connection;
  #held: HeldSocket | undefined;
  #wasDestroyed = false;
  #wasClosed = false;

  constructor(res: ServerResponse) {
    this.#res = res as unknown as Connection;
    this.hideEnd();
    this.holdSocket();
  }

  /** To be called when Node has told the response that its client is gone, before anybody else is told. */
  hideEnd(): void {
    const res = this.#res;
    if (res.destroyed) {
      this.#wasDestroyed = true;
      res.destroyed = false;
    }
    if (res._closed) {
      this.#wasClosed = true;
      res._closed = false;
    }
  }

  /** To be called when the response has got its socket, which one behind another on a connection gets late. */
  holdSocket(): void {
    const { socket } = this.#res;
    if (socket === null || socket === undefined) return;
    this.#held = new HeldSocket(socket);
    this.#res.socket = this.#held.view;
  }

  /**
   * To be called when the handler has ended its response. Who destroys the socket from now on means one that the response has left
   * by: so the last handlers of Express and connect do (finalhandler), for an error that is thrown after the end.
   */
  postponeDestroy(): void {
    const held = this.#held;
    const { req } = this.#res;
    if (held === undefined || req.socket !== held.socket) return;
    held.postponeDestroy();
    req.socket = held.view;
  }

  /** Destroys the socket when the response has left by it. False where that is not to be waited for. */
  destroyLater(): boolean {
    return this.#held?.destroyLater() ?? false;
  }

  /** From here on the response tells the truth. */
  end(): void {
    const res = this.#res;
    const held = this.#held;
    if (held !== undefined) {
      if (res.socket === held.view) res.socket = held.socket;
      if (res.req.socket === held.view) res.req.socket = held.socket;
      if (held.isToBeDestroyed) res.once("finish", () => held.socket.destroySoon());
    }
    if (this.#wasDestroyed) res.destroyed = true;
    if (this.#wasClosed) res._closed = true;
    held?.letGo();
  }
}

type Listener = (...args: unknown[]) => void;

/** Events that tell of the end of the connection. */
const ends: ReadonlySet<unknown> = new Set(["close", "error", "end"]);
const alive: Readonly<Record<string | symbol, unknown>> = {
  writable: true,
  destroyed: false,
  closed: false,
};

/** A socket, of which nobody learns here that it has closed. */
class HeldSocket implements ProxyHandler<Socket> {
  readonly socket: Socket;
  readonly view: Socket;
  #waiting: [event: string, listener: Listener, isOnce: boolean][] = [];
  #isLetGo = false;
  #isPostponing = false;
  #isToBeDestroyed = false;

  constructor(socket: Socket) {
    this.socket = socket;
    this.view = new Proxy(socket, this);
  }

  get(target: Socket, name: string | symbol): unknown {
    if (this.#isPostponing && name === "destroy")
      return () => {
        this.destroyLater();
        return this.view;
      };
    switch (name) {
      case "on":
      case "addListener":
        return (event: string, listener: Listener) => this.#add(event, listener, false);
      case "once":
        return (event: string, listener: Listener) => this.#add(event, listener, true);
      case "off":
      case "removeListener":
        return (event: string, listener: Listener) => this.#remove(event, listener);
      default: {
        if (!this.#isLetGo && Object.hasOwn(alive, name)) return alive[name];
        const value: unknown = Reflect.get(target, name, target);
        return typeof value === "function" ? (value.bind(target) as unknown) : value;
      }
    }
  }

  set(target: Socket, name: string | symbol, value: unknown): boolean {
    return Reflect.set(target, name, value, target);
  }

  /** From now on to destroy it means: when it has carried what waits for the store. */
  postponeDestroy(): void {
    this.#isPostponing = true;
  }

  get isToBeDestroyed(): boolean {
    return this.#isToBeDestroyed;
  }

  /** False where it is not postponed. */
  destroyLater(): boolean {
    this.#isToBeDestroyed ||= this.#isPostponing;
    return this.#isPostponing;
  }

  /** Hands what waits for the end of the socket on to the socket itself. */
  letGo(): void {
    this.#isLetGo = true;
    this.#isPostponing = false;
    const { socket } = this;
    for (const [event, listener, isOnce] of this.#waiting.splice(0)) {
      // The event has passed for those who waited for it here.
      if (event === "close" && socket.closed) process.nextTick(listener, socket.errored !== null);
      else if (isOnce) socket.once(event, listener);
      else socket.on(event, listener);
    }
  }

  #add(event: string, listener: Listener, isOnce: boolean): Socket {
    if (!this.#isLetGo && ends.has(event)) this.#waiting.push([event, listener, isOnce]);
    else if (isOnce) this.socket.once(event, listener);
    else this.socket.on(event, listener);
    return this.view;
  }

  #remove(event: string, listener: Listener): Socket {
    const at = this.#waiting.findIndex(([name, known]) => name === event && known === listener);
    if (at >= 0) this.#waiting.splice(at, 1);
    else this.socket.removeListener(event, listener);
    return this.view;
  }
}
