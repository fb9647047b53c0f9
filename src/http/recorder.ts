/**
 * Holds back every byte of a Node response until it is durable. Owns: the capture at the level of `ServerResponse`, so that
 * whatever a handler or its framework calls is caught: json, send, end, write, writeHead, pipe, sendFile, redirect, errors.
 * Must never let a byte reach the socket on its own, and never lose a response because the client hung up.
 */
import type { ServerResponse } from "node:http";
import type { Socket } from "node:net";
import type { StoredResponse } from "../core/record.js";
import { answerBeside } from "./beside.js";
import { bytesOf, endArguments, hasNoBody, joined, pickCallback } from "./chunks.js";
import type { Callback } from "./chunks.js";
import { checkedReason, checkedStatus, heldHead } from "./head.js";
import type { StatusLine } from "./head.js";
import {
  headersOfHandler,
  isEventStream,
  orderAsReplayed,
  resetHeaders,
  resetRemovals,
  takeHeaders,
  takeHeadersBefore,
  takeRemovals,
} from "./headers.js";
import type { HeaderSnapshot } from "./headers.js";
import { tabulateResponse } from "./hidden-class.js";
import { Liveness } from "./liveness.js";
import { PassingResponse } from "./passing.js";
import type { Headers, RecorderOptions, Recording, Unheld } from "./recording.js";
import { applyHeaders, nodeError, HeldMethods } from "./response-methods.js";
import type { ResponseHolder } from "./response-methods.js";
import { putHead, setAll } from "./send-response.js";

/** Begins to record. The response must not have been begun. */
export function record(res: ServerResponse, options: RecorderOptions): Recording {
  return new Recorder(res, options);
}

/** What Node keeps of a response beside its public properties. */
interface Internals {
  /** The serialised head; see {@link heldHead}. Null until then. */
  _header: string | null;
}

class Recorder implements Recording, ResponseHolder {
  readonly #res: ServerResponse & Partial<Internals>;
  readonly #options: RecorderOptions;
  readonly #methods: HeldMethods;
  readonly #liveness: Liveness;
  readonly #headersBefore: HeaderSnapshot;
  readonly #removalsBefore: number;
  readonly #statusBefore: number;
  /** held: the handler writes. overflow: it waits. ended: it has ended. passing: nothing is held any more. */
  #phase: "held" | "overflow" | "ended" | "passing" = "held";
  #held: Buffer[] = [];
  #heldBytes = 0;
  #isDropping = false;
  #isJudged = false;
  #endedInOverflow = false;
  #clientClosed = false;
  /** What the head said when it was fixed: a status that is set later comes too late, as in Node. */
  #fixed: StatusLine | undefined;
  #captured: StoredResponse | undefined;
  /** Since it is held no more. */
  #passing: PassingResponse | undefined;
  /** The socket that the handler has taken; corked until the row says that the response is not stored. */
  #taken: Socket | undefined;
  /** Callbacks of writes that wait for the decision on an overflow. */
  readonly #waiting: Callback[] = [];

  constructor(res: ServerResponse, options: RecorderOptions) {
    tabulateResponse(res);
    this.#res = res;
    this.#options = options;
    this.#headersBefore = takeHeadersBefore(res);
    this.#removalsBefore = takeRemovals(res);
    this.#statusBefore = res.statusCode;
    this.#methods = new HeldMethods(res, this);
    this.#liveness = new Liveness(res);
  }

  send(headers: Headers): void {
    const { body, headers: stored } = this.#capture();
    this.#letPass();
    orderAsReplayed(this.#res, this.#headersBefore, stored);
    // The whole body is at hand, so that its length frames it, in the first response as in every replay.
    for (const name of ["Transfer-Encoding", "Trailer"])
      if (this.#res.hasHeader(name)) this.#res.removeHeader(name);
    const length = this.#res.getHeader("Content-Length");
    if (length !== undefined && Number(length) !== body.length)
      this.#res.removeHeader("Content-Length");
    resetRemovals(this.#res, this.#removalsBefore);
    this.#finishHead(headers);
    this.#endNow(body);
  }

  sendInstead(response: StoredResponse, headers: Headers): void {
    this.#reset();
    this.#endedInOverflow = false;
    // On a socket that is the handler's no response can follow.
    if (this.#taken !== undefined) {
      this.#taken.destroy();
      return;
    }
    putHead(this.#res, response);
    setAll(this.#res, headers);
    this.#endNow(response.body);
  }

  stream(headers: Headers, beforeEnd: () => Promise<void>): void {
    this.#letPass();
    const passing = new PassingResponse(this.#res, this.#methods, beforeEnd);
    this.#passing = passing;
    if (this.#taken !== undefined) {
      passing.letGo(this.#taken);
      return;
    }
    this.#finishHead(headers);
    const held = joined(this.#held.splice(0));
    if (this.#endedInOverflow) {
      this.#endedInOverflow = false;
      passing.end([held]);
    } else passing.begin(held);
    this.#tellClose();
  }

  answerEarly(response: StoredResponse, headers: Headers): boolean {
    if (this.#phase === "passing" || this.#clientClosed || this.#taken !== undefined) return false;
    // What ends the client's connection is nothing to the handler, as when a client hangs up.
    this.#clientClosed = answerBeside(this.#res, this.#headersBefore, response, headers);
    if (this.#clientClosed) this.#liveness.hideEnd();
    return this.#clientClosed;
  }

  discard(): void {
    this.#reset();
    this.#methods.restore();
    this.#tellClose();
  }

  write(chunk: unknown, encoding: unknown, callback: unknown): unknown {
    const done = pickCallback(encoding, callback);
    if (this.#isOver()) {
      process.nextTick(() => done?.(nodeError("ERR_STREAM_WRITE_AFTER_END", "write after end")));
      return false;
    }
    if (this.#phase === "passing")
      return this.#methods.original("write", [chunk, encoding, callback]);
    // Before the head: what is no chunk is the handler's error, and an error handler must still be able to answer.
    const bytes = bytesOf(chunk, encoding);
    this.#implyHead();
    this.#judge();
    this.#hold(bytes);
    if (this.#hasOverflown()) {
      if (done !== undefined) this.#waiting.push(done);
      return false;
    }
    process.nextTick(() => done?.());
    return true;
  }

  end(chunk: unknown, encoding: unknown, callback: unknown): unknown {
    const hasChunk = typeof chunk !== "function";
    const done = hasChunk ? pickCallback(encoding, callback) : (chunk as Callback);
    if (this.#isOver()) {
      process.nextTick(() =>
        done?.(nodeError("ERR_STREAM_ALREADY_FINISHED", "end was called before")),
      );
      return this.#res;
    }
    const bytes = hasChunk ? bytesOf(chunk, encoding) : undefined;
    if (this.#phase === "passing") {
      const last = [bytes, undefined, done];
      if (this.#passing === undefined) this.#methods.original("end", last);
      else this.#passing.end(last);
      return this.#res;
    }
    this.#implyHead();
    if (done !== undefined) this.#res.once("finish", () => done());
    this.#hold(bytes);
    if (this.#hasOverflown()) {
      this.#endedInOverflow = true;
      return this.#res;
    }
    this.#phase = "ended";
    this.#liveness.postponeDestroy();
    if (!this.#isDropping) this.#options.onEnd(this.#capture());
    return this.#res;
  }

  writeHead(status: unknown, second: unknown, third: unknown): unknown {
    if (this.#phase === "passing")
      return this.#methods.original("writeHead", [status, second, third]);
    if (this.#isHeadFixed()) {
      throw nodeError(
        "ERR_HTTP_HEADERS_SENT",
        "Cannot write headers after they are sent to the client",
      );
    }
    const code = checkedStatus(status);
    if (typeof second === "string") this.#res.statusMessage = second;
    const statusMessage = checkedReason(this.#res.statusMessage);
    applyHeaders(this.#res, typeof second === "string" ? third : (second ?? third));
    this.#res.statusCode = code;
    this.#fixed = { status: code, statusMessage };
    this.#res._header = heldHead;
    return this.#res;
  }

  flushHeaders(): void {
    if (this.#phase === "passing") {
      this.#methods.original("flushHeaders", []);
      return;
    }
    this.#implyHead();
    this.#judge();
  }

  /** A head that leaves before the end, or a byte: from here on a stream cannot be held. */
  #judge(): void {
    if (this.#phase !== "held" || this.#isJudged) return;
    this.#isJudged = true;
    if (this.#options.isStream === true || isEventStream(this.#res)) this.#overflow("stream");
  }

  addTrailers(trailers: unknown): void {
    if (this.#phase === "passing") this.#methods.original("addTrailers", [trailers]);
  }

  fail(): void {
    this.#letPass();
    this.#methods.original("destroy", []);
  }

  /** The handler gives its response up: no part of it was sent, and no answer stands for what was done. */
  destroy(error: unknown): unknown {
    // On Node alone it has left by now.
    if (this.#phase === "ended" && this.#liveness.destroyLater()) return this.#res;
    if (this.#phase === "held" || this.#phase === "overflow") {
      const hasOverflown = this.#hasOverflown();
      this.#letPass();
      this.#held = [];
      // Of a response that has overflown the row is being told, and its end is that of the connection.
      if (!hasOverflown && !this.#isDropping) this.#options.onGivenUp?.();
    }
    this.#methods.original("destroy", [error]);
    if (this.#phase === "passing") this.#tellClose();
    return this.#res;
  }

  /** The handler takes the socket: what it writes to it waits there until the row says that the response is not stored. */
  detachSocket(socket: unknown): void {
    if (this.#phase === "held") this.#overflow("stream");
    if (this.#phase === "held") {
      throw nodeError("ERR_INVALID_STATE", "A transaction route cannot give its socket away");
    }
    if (this.#phase === "overflow") {
      this.#taken = this.#res.req.socket;
      this.#taken.cork();
    }
    this.#methods.original("detachSocket", [this.#taken ?? socket]);
  }

  /** The client hung up: whoever pipes into this response must not stop because of it. */
  emit(event: unknown, ...args: readonly unknown[]): unknown {
    if (event !== "close" || this.#phase === "passing")
      return this.#methods.original("emit", [event, ...args]);
    this.#liveness.hideEnd();
    this.#clientClosed = true;
    return true;
  }

  // Interim responses and trailers stand outside of what is stored; a replay could not have them.
  writeEarlyHints(_hints: unknown, callback: unknown): void {
    (callback as Callback | undefined)?.();
  }

  writeProcessing(callback: unknown): void {
    (callback as Callback | undefined)?.();
  }

  assignSocket(socket: unknown): void {
    this.#methods.original("assignSocket", [socket]);
    if (this.#phase !== "passing") this.#liveness.holdSocket();
  }

  isEnded(): boolean {
    if (this.#phase === "passing") return this.#res.finished;
    return this.#phase === "ended" || this.#endedInOverflow;
  }

  #isHeadFixed(): boolean {
    return Boolean(this.#res._header);
  }

  /** The head is implied by the first byte, as in Node; a writeHead that a framework has wrapped is called for it. */
  #implyHead(): void {
    if (!this.#isHeadFixed()) this.#res.writeHead(this.#res.statusCode);
  }

  #isOver(): boolean {
    return (
      this.#phase === "ended" ||
      this.#endedInOverflow ||
      (this.#phase === "passing" && (this.#res.finished || this.#passing?.isEnding() === true))
    );
  }

  #hasOverflown(): boolean {
    return this.#phase === "overflow";
  }

  #hold(buffer: Buffer | undefined): void {
    if (buffer === undefined) return;
    const { maxBytes } = this.#options;
    this.#heldBytes += buffer.length;
    if (!this.#isDropping) this.#held.push(buffer);
    if (this.#heldBytes > maxBytes && this.#phase !== "overflow") this.#overflow("large");
  }

  #overflow(why: Unheld): void {
    if (this.#isDropping) return;
    if (this.#options.onOverflow(why) === "wait") this.#phase = "overflow";
    else {
      this.#isDropping = true;
      this.#held = [];
    }
  }

  #capture(): StoredResponse {
    if (this.#captured !== undefined) return this.#captured;
    const { stores } = this.#options;
    const { status, statusMessage } = this.#fixHead();
    const body = hasNoBody(status) ? Buffer.alloc(0) : joined(this.#held);
    const after = takeHeaders(this.#res);
    const said = headersOfHandler(this.#headersBefore, after, body.length, stores);
    // Most have neither: an object that is put together of others costs several times as much as one that is written out.
    this.#captured =
      statusMessage === undefined && said.removedHeaders === undefined
        ? { status, headers: said.headers, body }
        : { status, ...(statusMessage === undefined ? {} : { statusMessage }), ...said, body };
    return this.#captured;
  }

  #fixHead(): StatusLine {
    const { statusCode: status, statusMessage } = this.#res;
    return (this.#fixed ??= { status, statusMessage: statusMessage || undefined });
  }

  /** From here on everything passes. */
  #letPass(): void {
    if (this.#phase === "passing") return;
    this.#phase = "passing";
    this.#res._header = null;
    // What lies over our writeHead was called when the head was fixed, and what it did is stored.
    this.#methods.takeAgain("writeHead");
    this.#liveness.end();
    for (const done of this.#waiting.splice(0)) process.nextTick(done);
  }

  #reset(): void {
    this.#letPass();
    this.#res.statusCode = this.#statusBefore;
    (this.#res as { statusMessage: string | undefined }).statusMessage = undefined;
    resetHeaders(this.#res, this.#headersBefore);
    resetRemovals(this.#res, this.#removalsBefore);
  }

  #finishHead(headers: Headers): void {
    const { status, statusMessage } = this.#fixHead();
    this.#res.statusCode = status;
    (this.#res as { statusMessage: string | undefined }).statusMessage = statusMessage;
    setAll(this.#res, headers);
  }

  /** By the method of before: what lies over ours since has done its part, and may think that all is over. */
  #endNow(body: Uint8Array): void {
    this.#methods.original("end", this.#methods.isNodes("end") ? endArguments(body) : [body]);
    this.#tellClose();
  }

  #tellClose(): void {
    if (!this.#clientClosed) return;
    this.#clientClosed = false;
    this.#res.emit("close");
  }
}
