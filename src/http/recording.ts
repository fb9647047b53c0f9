/**
 * What recording a response means to those who begin one. Owns: the words between the recorder and the routes.
 */
import type { StoredHeader, StoredResponse } from "../core/record.js";
import type { StoresHeader } from "../core/stored-headers.js";

export interface RecorderOptions {
  /** Largest body that is held. */
  readonly maxBytes: number;
  /** Says of every response that it is a stream, as `text/event-stream` says of one. Default false. */
  readonly isStream?: boolean;
  /** Which of the handler's headers are captured. Default: those that are stored without an option. */
  readonly stores?: StoresHeader;
  /**
   * The body has outgrown what is held, or is a stream. Called once, in place of `onEnd`, before the first byte. `"wait"`: the
   * handler is slowed down until {@link Recording.stream} or {@link Recording.sendInstead}. `"drop"`: what it writes is thrown
   * away.
   */
  readonly onOverflow: (why: Unheld) => "wait" | "drop";
  /** The handler has ended its response. Called once. */
  readonly onEnd: (response: StoredResponse) => void;
  /** The handler has destroyed its response before it ended it. Called once, in place of `onEnd`. Default: nobody is told. */
  readonly onGivenUp?: () => void;
}

/** Why a response is not held to its end. */
export type Unheld = "large" | "stream";

/** Headers of our own for a response that is about to be sent. */
export type Headers = readonly StoredHeader[];

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
  /**
   * Answers the client in the handler's place while the handler goes on; what it answers is captured as for a client that is
   * gone. False where nobody is there to answer.
   */
  answerEarly(response: StoredResponse, headers: Headers): boolean;
  /** Cuts the connection: nothing can be sent, and the client must not wait for it. */
  fail(): void;
  /** Forgets what was captured and gives the response back as the handler got it, for an error handler to use. */
  discard(): void;
}
