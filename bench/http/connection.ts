/**
 * One keep-alive HTTP connection of the load generator. Owns: writing a request and finding the end of its response, at a cost
 * far below the server's. Responses must carry a Content-Length.
 */
import { connect, type Socket } from "node:net";

export interface Reply {
  readonly status: number;
  /** The response said that it was a replay, in the words of any contender. */
  readonly isReplay: boolean;
}

const headEnd = Buffer.from("\r\n\r\n");
const lengthHeader = /\r\ncontent-length: (\d+)/i;
const replayHeader = /\r\n(?:idempotent-replayed|x-replayed): true/i;

export class Connection {
  readonly #socket: Socket;
  #pending: Buffer = Buffer.alloc(0);
  #settle: { resolve: (reply: Reply) => void; reject: (error: Error) => void } | undefined;

  constructor(port: number) {
    this.#socket = connect({ port, host: "127.0.0.1", noDelay: true });
    this.#socket.on("data", (chunk: Buffer) => this.#read(chunk));
    this.#socket.on("error", (error) => this.#fail(error));
    this.#socket.on("close", () => this.#fail(new Error("the server closed the connection")));
  }

  /** Sends one request; the last one must have been answered. */
  send(request: string): Promise<Reply> {
    return new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
      this.#socket.write(request);
    });
  }

  close(): void {
    this.#socket.destroy();
  }

  #read(chunk: Buffer): void {
    this.#pending = this.#pending.length === 0 ? chunk : Buffer.concat([this.#pending, chunk]);
    const end = this.#pending.indexOf(headEnd);
    if (end === -1) return;
    const head = this.#pending.toString("latin1", 0, end);
    const length = lengthHeader.exec(head)?.[1];
    if (length === undefined) {
      this.#fail(new Error(`a response without a length: ${head}`));
      return;
    }
    const total = end + headEnd.length + Number(length);
    if (this.#pending.length < total) return;
    this.#pending = this.#pending.subarray(total);
    const settle = this.#settle;
    this.#settle = undefined;
    settle?.resolve({ status: Number(head.slice(9, 12)), isReplay: replayHeader.test(head) });
  }

  #fail(error: Error): void {
    this.#settle?.reject(error);
    this.#settle = undefined;
  }
}
