/**
 * Holds back every byte of a Node response until it is durable. Owns: the capture at the level of `ServerResponse`, so that
 * whatever a handler or its framework calls is caught: json, send, end, write, writeHead, pipe, sendFile, redirect, errors.
 * Must never let a byte reach the socket on its own, and never lose a response because the client hung up.
 */
import type { ServerResponse } from "node:http";
import type { StoredHeader, StoredResponse } from "../core/record.js";
import { headersOfHandler, resetHeaders, takeHeaders, takeRemovals } from "./headers.js";
import type { HeaderSnapshot } from "./headers.js";
import { applyHeaders, fakeLiveness, nodeError, replaceMethods } from "./response-methods.js";
import type { ReplacedMethods } from "./response-methods.js";

export interface RecorderOptions {
  /** Largest body that is held. */
  readonly maxBytes: number;
  /**
   * The body has outgrown it. Called once, in place of `onEnd`. `"wait"`: the handler is slowed down until
   * {@link Recording.stream} or {@link Recording.sendInstead}. `"drop"`: what it writes is thrown away.
   */
  readonly onOverflow: () => "wait" | "drop";
  /** The handler has ended its response. Called once. */
  readonly onEnd: (response: StoredResponse) => void;
}

/** Headers of our own for a response that is about to be sent. */
type Headers = readonly StoredHeader[];

export interface Recording {
  /** Sends what was captured. */
  send(headers: Headers): void;
  /** Sends another response in its place; what the handler still does with its own goes nowhere. */
  sendInstead(response: StoredResponse, headers: Headers): void;
  /**
   * Sends what was captured so far and lets the rest pass. `beforeEnd` is awaited before the last bytes leave, or called when
   * the client is gone; once.
   */
  stream(headers: Headers, beforeEnd: () => Promise<void>): void;
  /** Forgets what was captured and gives the response back as the handler got it, for an error handler to use. */
  discard(): void;
}

/** Begins to record. The response must not have been begun. */
export function record(res: ServerResponse, options: RecorderOptions): Recording {
  return new Recorder(res, options);
}

type Callback = (error?: Error | null) => void;

/** What Node keeps of a response beside its public properties. */
interface Internals {
  /** The serialised head; truthy makes `headersSent` true and `setHeader` throw. Null until then. */
  _header: string | null;
}

const heldHead = "held by oncekey";

class Recorder implements Recording {
  readonly #res: ServerResponse & Partial<Internals>;
  readonly #options: RecorderOptions;
  readonly #methods: ReplacedMethods;
  readonly #unfake: () => void;
  readonly #headersBefore: HeaderSnapshot;
  readonly #forgetRemovals: () => void;
  readonly #statusBefore: number;
  /** held: the handler writes. overflow: it waits. ended: it has ended. passing: nothing is held any more. */
  #phase: "held" | "overflow" | "ended" | "passing" = "held";
  #held: Buffer[] = [];
  #heldBytes = 0;
  #isDropping = false;
  #endedInOverflow = false;
  #clientClosed = false;
  #statusMessage: string | undefined;
  #captured: StoredResponse | undefined;
  #beforeEnd: () => Promise<void> = () => Promise.resolve();
  #isStreamEnding = false;
  /** Callbacks of writes that wait for the decision on an overflow. */
  readonly #waiting: Callback[] = [];

  constructor(res: ServerResponse, options: RecorderOptions) {
    this.#res = res;
    this.#options = options;
    this.#headersBefore = takeHeaders(res);
    this.#forgetRemovals = takeRemovals(res);
    this.#statusBefore = res.statusCode;
    this.#methods = replaceMethods(res, {
      write: (chunk, encoding, callback) => this.#write(chunk, encoding, callback),
      end: (chunk, encoding, callback) => this.#end(chunk, encoding, callback),
      writeHead: (status, second, third) => this.#writeHead(status, second, third),
      flushHeaders: () => this.#flushHeaders(),
      emit: (event, ...args) => this.#emit(event, ...args),
      // Interim responses and trailers stand outside of what is stored; a replay could not have them.
      writeEarlyHints: (_hints, callback) => (callback as Callback | undefined)?.(),
      writeProcessing: (callback) => (callback as Callback | undefined)?.(),
      addTrailers: () => undefined,
    });
    this.#unfake = fakeLiveness(res, () => this.#phase === "ended" || this.#endedInOverflow);
  }

  send(headers: Headers): void {
    const { body } = this.#capture();
    this.#letPass();
    // The whole body is at hand, so that its length frames it, in the first response as in every replay.
    this.#res.removeHeader("Transfer-Encoding");
    this.#res.removeHeader("Trailer");
    const length = this.#res.getHeader("Content-Length");
    if (length !== undefined && Number(length) !== body.length)
      this.#res.removeHeader("Content-Length");
    this.#forgetRemovals();
    this.#finishHead(headers);
    this.#endNow(body);
  }

  sendInstead(response: StoredResponse, headers: Headers): void {
    this.#reset();
    this.#endedInOverflow = false;
    putHead(this.#res, response);
    setAll(this.#res, headers);
    this.#endNow(response.body);
  }

  stream(headers: Headers, beforeEnd: () => Promise<void>): void {
    this.#letPass();
    this.#beforeEnd = beforeEnd;
    this.#finishHead(headers);
    const held = joined(this.#held);
    this.#held = [];
    if (this.#endedInOverflow) {
      this.#endedInOverflow = false;
      this.#endStream([held]);
    } else {
      // Nobody reads any more, and a pipe into a closed response never ends it.
      this.#res.once("close", () => this.#endStream([]));
      const flowing = this.#methods.original("write", held) === true;
      if (flowing) process.nextTick(() => this.#res.emit("drain"));
    }
    this.#tellClose();
  }

  /** What reads the whole response finds that its key has reached its final state. */
  #endStream(args: readonly unknown[]): void {
    if (this.#isStreamEnding) return;
    this.#isStreamEnding = true;
    void this.#beforeEnd().finally(() => this.#methods.original("end", ...args));
  }

  discard(): void {
    this.#reset();
    this.#methods.restore();
    this.#tellClose();
  }

  #write(chunk: unknown, encoding: unknown, callback: unknown): unknown {
    const done = pickCallback(encoding, callback);
    if (this.#isOver()) {
      process.nextTick(() => done?.(nodeError("ERR_STREAM_WRITE_AFTER_END", "write after end")));
      return false;
    }
    if (this.#phase === "passing")
      return this.#methods.original("write", chunk, encoding, callback);
    this.#implyHead();
    this.#hold(chunk, encoding);
    if (this.#hasOverflown()) {
      if (done !== undefined) this.#waiting.push(done);
      return false;
    }
    process.nextTick(() => done?.());
    return true;
  }

  #end(chunk: unknown, encoding: unknown, callback: unknown): unknown {
    const hasChunk = typeof chunk !== "function";
    const done = hasChunk ? pickCallback(encoding, callback) : (chunk as Callback);
    if (this.#isOver()) {
      process.nextTick(() =>
        done?.(nodeError("ERR_STREAM_ALREADY_FINISHED", "end was called before")),
      );
      return this.#res;
    }
    if (this.#phase === "passing") {
      this.#endStream([chunk, encoding, callback]);
      return this.#res;
    }
    if (done !== undefined) this.#res.once("finish", () => done());
    this.#implyHead();
    if (hasChunk) this.#hold(chunk, encoding);
    if (this.#hasOverflown()) {
      this.#endedInOverflow = true;
      return this.#res;
    }
    this.#phase = "ended";
    if (!this.#isDropping) this.#options.onEnd(this.#capture());
    return this.#res;
  }

  #writeHead(status: unknown, second: unknown, third: unknown): unknown {
    if (this.#phase === "passing")
      return this.#methods.original("writeHead", status, second, third);
    if (this.#isHeadFixed()) {
      throw nodeError(
        "ERR_HTTP_HEADERS_SENT",
        "Cannot write headers after they are sent to the client",
      );
    }
    const code = Number(status);
    if (!Number.isInteger(code) || code < 100 || code > 999) {
      throw Object.assign(new RangeError(`Invalid status code: ${code}`), {
        code: "ERR_HTTP_INVALID_STATUS_CODE",
      });
    }
    if (typeof second === "string") this.#statusMessage = second;
    applyHeaders(this.#res, typeof second === "string" ? third : (second ?? third));
    this.#res.statusCode = code;
    this.#res._header = heldHead;
    return this.#res;
  }

  #flushHeaders(): void {
    if (this.#phase === "passing") this.#methods.original("flushHeaders");
    else this.#implyHead();
  }

  /** The client hung up: whoever pipes into this response must not stop because of it. */
  #emit(event: unknown, ...args: readonly unknown[]): unknown {
    if (event !== "close" || this.#phase === "passing")
      return this.#methods.original("emit", event, ...args);
    this.#clientClosed = true;
    return true;
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
      (this.#phase === "passing" && (this.#res.finished || this.#isStreamEnding))
    );
  }

  #hasOverflown(): boolean {
    return this.#phase === "overflow";
  }

  #hold(chunk: unknown, encoding: unknown): void {
    if (chunk === undefined || chunk === null) return;
    const { maxBytes, onOverflow } = this.#options;
    const buffer = toBuffer(chunk, encoding);
    this.#heldBytes += buffer.length;
    if (!this.#isDropping) this.#held.push(buffer);
    if (this.#heldBytes <= maxBytes || this.#isDropping || this.#phase === "overflow") return;
    if (onOverflow() === "wait") this.#phase = "overflow";
    else {
      this.#isDropping = true;
      this.#held = [];
    }
  }

  #capture(): StoredResponse {
    if (this.#captured !== undefined) return this.#captured;
    const body = hasNoBody(this.#res.statusCode) ? Buffer.alloc(0) : joined(this.#held);
    const statusMessage = this.#statusMessage ?? (this.#res.statusMessage || undefined);
    this.#captured = {
      status: this.#res.statusCode,
      ...(statusMessage === undefined ? {} : { statusMessage }),
      ...headersOfHandler(this.#headersBefore, takeHeaders(this.#res), body.length),
      body,
    };
    return this.#captured;
  }

  /** From here on everything passes. */
  #letPass(): void {
    this.#phase = "passing";
    this.#res._header = null;
    this.#unfake();
    for (const done of this.#waiting.splice(0)) process.nextTick(done);
  }

  #reset(): void {
    this.#letPass();
    this.#res.statusCode = this.#statusBefore;
    (this.#res as { statusMessage: string | undefined }).statusMessage = undefined;
    resetHeaders(this.#res, this.#headersBefore);
    this.#forgetRemovals();
  }

  #finishHead(headers: Headers): void {
    if (this.#statusMessage !== undefined) this.#res.statusMessage = this.#statusMessage;
    setAll(this.#res, headers);
  }

  /** By the method of before: what lies over ours since has done its part, and may think that all is over. */
  #endNow(body: Uint8Array): void {
    this.#methods.original("end", ...(body.length === 0 ? [] : [body]));
    this.#tellClose();
  }

  #tellClose(): void {
    if (this.#clientClosed) this.#res.emit("close");
  }
}

/** Sends a stored response on a response that nothing was written to. */
export function sendResponse(
  res: ServerResponse,
  response: StoredResponse,
  headers: Headers,
): void {
  putHead(res, response);
  setAll(res, headers);
  if (response.body.length === 0) res.end();
  else res.end(response.body);
}

function putHead(res: ServerResponse, response: StoredResponse): void {
  res.statusCode = response.status;
  if (response.statusMessage !== undefined) res.statusMessage = response.statusMessage;
  for (const name of response.removedHeaders ?? []) res.removeHeader(name);
  setAll(res, response.headers);
}

function setAll(res: ServerResponse, headers: Headers): void {
  for (const [name, value] of headers) res.setHeader(name, value);
}

/** RFC 9110, section 6.4.1: these have no content, whatever the handler wrote. */
function hasNoBody(status: number): boolean {
  return status === 204 || status === 304 || status < 200;
}

function joined(chunks: readonly Buffer[]): Buffer {
  return chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks);
}

function toBuffer(chunk: unknown, encoding: unknown): Buffer {
  if (typeof chunk === "string") {
    return Buffer.from(
      chunk,
      typeof encoding === "string" && Buffer.isEncoding(encoding) ? encoding : "utf8",
    );
  }
  // A copy: the handler may use its buffer again before this one is sent.
  if (chunk instanceof Uint8Array) return Buffer.from(chunk);
  throw Object.assign(
    new TypeError("The chunk of a response must be a string, Buffer or Uint8Array."),
    {
      code: "ERR_INVALID_ARG_TYPE",
    },
  );
}

function pickCallback(encoding: unknown, callback: unknown): Callback | undefined {
  if (typeof encoding === "function") return encoding as Callback;
  return typeof callback === "function" ? (callback as Callback) : undefined;
}
