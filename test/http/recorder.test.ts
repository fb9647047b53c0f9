/** The recorder on a bare node:http server. Clients are raw sockets, so that what is compared is what was on the wire. */
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { connect, type AddressInfo, type Socket } from "node:net";
import { PassThrough, Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGzip, gunzipSync } from "node:zlib";

import type { StoredResponse } from "../../src/core/record.js";
import { record } from "../../src/http/recorder.js";
import type { Recording, RecorderOptions } from "../../src/http/recording.js";
import { sendResponse } from "../../src/http/send-response.js";
import { waitFor } from "../support/wait-for.js";

type Handler = (res: ServerResponse, req: IncomingMessage) => unknown;

const nothing = (): void => undefined;
let current: Handler;
let port: number;
const failures: unknown[] = [];

const server = createServer((req, res) => {
  // The date is the one header that differs from one response to the next.
  res.sendDate = false;
  Promise.resolve(current(res, req)).catch((error: unknown) => failures.push(error));
});

beforeAll(async () => {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  ({ port } = server.address() as AddressInfo);
});
afterAll(async () => {
  server.close();
  await once(server, "close");
});
afterEach(() => {
  const [failure] = failures.splice(0);
  if (failure !== undefined) throw failure as Error;
});

function open(): Socket {
  const socket = connect(port, "127.0.0.1");
  socket.write(
    "POST /orders HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
  );
  return socket;
}

/** Every byte that a server says to one request. */
async function bytesOf(handler: Handler): Promise<Buffer> {
  current = handler;
  const chunks: Buffer[] = [];
  for await (const chunk of open()) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

/** Runs a handler under a recorder that lets go of the response when it is kept. */
function recorded(
  handler: Handler,
  keep: (response: StoredResponse) => void,
  maxBytes = 1 << 20,
): Handler {
  return (res, req) => {
    const recording = record(res, {
      maxBytes,
      onGivenUp: nothing,
      onOverflow: () => {
        throw new Error("not expected to overflow");
      },
      onEnd: (response) => {
        keep(response);
        // Later, as when a store has answered.
        setImmediate(() => recording.send([]));
      },
    });
    return handler(res, req);
  };
}

/** What the first request was answered, what was kept, and what a replay is answered. */
async function firstAndReplay(
  handler: Handler,
  before: (res: ServerResponse) => void = nothing,
): Promise<{ first: Buffer; kept: StoredResponse; replay: Buffer }> {
  const all: StoredResponse[] = [];
  const first = await bytesOf((res, req) => {
    before(res);
    return recorded(handler, (response) => all.push(response))(res, req);
  });
  expect(all).toHaveLength(1);
  const kept = all[0] as StoredResponse;
  const replay = await bytesOf((res) => {
    before(res);
    sendResponse(res, kept, []);
  });
  return { first, kept, replay };
}

const crlf = (...lines: string[]): string => lines.join("\r\n");
const everyByte = Buffer.from(Array.from({ length: 256 }, (_, index) => index));

describe("the first response and its replay are the same bytes", () => {
  test.each<[string, Handler, string]>([
    [
      "write and end",
      (res) => {
        res.write("one ");
        res.write(Buffer.from("two "));
        res.end("three");
      },
      crlf("HTTP/1.1 200 OK", "Connection: close", "Content-Length: 13", "", "one two three"),
    ],
    [
      "end alone",
      (res) => res.end(),
      crlf("HTTP/1.1 200 OK", "Connection: close", "Content-Length: 0", "", ""),
    ],
    [
      "writeHead with an object and a reason",
      (res) => res.writeHead(201, "Charged", { "X-One": "1", Location: "/ch_1" }).end("ok"),
      crlf(
        "HTTP/1.1 201 Charged",
        "X-One: 1",
        "Location: /ch_1",
        "Connection: close",
        "Content-Length: 2",
        "",
        "ok",
      ),
    ],
    [
      "writeHead with a flat array, repetitions and a reason",
      (res) =>
        res.writeHead(201, "Charged", ["Link", "<a>", "X-One", "1", "Link", "<b>"]).end("ok"),
      crlf(
        "HTTP/1.1 201 Charged",
        "Link: <a>",
        "Link: <b>",
        "X-One: 1",
        "Connection: close",
        "Content-Length: 2",
        "",
        "ok",
      ),
    ],
    [
      "writeHead with an array of arrays and a reason",
      (res) => {
        const headers = [
          ["Link", "<a>"],
          ["Link", "<b>"],
        ];
        res.writeHead(201, "Charged", headers as unknown as string[]).end("ok");
      },
      crlf(
        "HTTP/1.1 201 Charged",
        "Link: <a>",
        "Link: <b>",
        "Connection: close",
        "Content-Length: 2",
        "",
        "ok",
      ),
    ],
    [
      "writeHead with headers and no reason",
      (res) => res.writeHead(202, { "X-One": "1" }).end("ok"),
      crlf("HTTP/1.1 202 Accepted", "X-One: 1", "Connection: close", "Content-Length: 2", "", "ok"),
    ],
    [
      "writeHead with an undefined reason",
      (res) => res.writeHead(202, undefined, { "X-One": "1" }).end("ok"),
      crlf("HTTP/1.1 202 Accepted", "X-One: 1", "Connection: close", "Content-Length: 2", "", "ok"),
    ],
    [
      "implicit headers, status and reason",
      (res) => {
        res.statusCode = 418;
        res.statusMessage = "Short and stout";
        res.setHeader("X-Pot", "yes");
        res.end("tea");
      },
      crlf(
        "HTTP/1.1 418 Short and stout",
        "X-Pot: yes",
        "Connection: close",
        "Content-Length: 3",
        "",
        "tea",
      ),
    ],
    [
      "headers of several values",
      (res) => {
        res.setHeader("Vary", ["Accept", "Origin"]);
        res.appendHeader("X-List", "a");
        res.appendHeader("X-List", "b");
        res.setHeader("X-Number", 7);
        res.end();
      },
      crlf(
        "HTTP/1.1 200 OK",
        "Vary: Accept",
        "Vary: Origin",
        "X-List: a",
        "X-List: b",
        "X-Number: 7",
        "Connection: close",
        "Content-Length: 0",
        "",
        "",
      ),
    ],
    [
      "a piped stream",
      (res) => void Readable.from(["one ", "two ", "three"]).pipe(res),
      crlf("HTTP/1.1 200 OK", "Connection: close", "Content-Length: 13", "", "one two three"),
    ],
    [
      "a pipeline",
      (res) => pipeline(Readable.from([Buffer.from("one "), Buffer.from("two")]), res),
      crlf("HTTP/1.1 200 OK", "Connection: close", "Content-Length: 7", "", "one two"),
    ],
    [
      "text in other encodings",
      (res) => {
        res.write("6f6e65", "hex");
        res.write("IHR3byA=", "base64");
        res.end("\u00e9", "latin1");
      },
      crlf("HTTP/1.1 200 OK", "Connection: close", "Content-Length: 9", "", "one two \u00e9"),
    ],
    [
      "headers that are flushed early",
      (res) => {
        res.setHeader("X-One", "1");
        res.flushHeaders();
        res.end("late");
      },
      crlf("HTTP/1.1 200 OK", "X-One: 1", "Connection: close", "Content-Length: 4", "", "late"),
    ],
    [
      "a status without content",
      (res) => {
        res.statusCode = 204;
        res.end("must not be sent");
      },
      crlf("HTTP/1.1 204 No Content", "Connection: close", "", ""),
    ],
    [
      "a length that the handler gave",
      (res) => res.writeHead(200, { "Content-Length": 2 }).end("ok"),
      crlf("HTTP/1.1 200 OK", "Content-Length: 2", "Connection: close", "", "ok"),
    ],
    [
      "a length that is wrong",
      (res) => res.writeHead(200, { "Content-Length": 99 }).end("ok"),
      crlf("HTTP/1.1 200 OK", "Connection: close", "Content-Length: 2", "", "ok"),
    ],
    [
      "chunks and trailers, which a replay cannot have",
      (res) => {
        res.writeHead(200, { "Transfer-Encoding": "chunked", Trailer: "X-Sum" });
        res.write("one ");
        res.addTrailers({ "X-Sum": "7" });
        res.end("two");
      },
      crlf("HTTP/1.1 200 OK", "Connection: close", "Content-Length: 7", "", "one two"),
    ],
    [
      "a second end",
      (res) => {
        res.end("once");
        res.end("twice");
      },
      crlf("HTTP/1.1 200 OK", "Connection: close", "Content-Length: 4", "", "once"),
    ],
    [
      "an end that comes later",
      async (res) => {
        res.write("a");
        await new Promise(setImmediate);
        res.end("b");
      },
      crlf("HTTP/1.1 200 OK", "Connection: close", "Content-Length: 2", "", "ab"),
    ],
  ])("%s", async (_name, handler, expected) => {
    const { first, replay } = await firstAndReplay(handler);
    expect(first.toString("latin1")).toBe(expected);
    expect(replay.equals(first)).toBe(true);
  });

  test("every byte there is", async () => {
    const { first, kept, replay } = await firstAndReplay((res) => res.end(everyByte));
    expect(everyByte.equals(kept.body)).toBe(true);
    expect(first.subarray(-256).equals(everyByte)).toBe(true);
    expect(replay.equals(first)).toBe(true);
  });

  test("a buffer that the handler uses again", async () => {
    const { first } = await firstAndReplay((res) => {
      const buffer = Buffer.from("one");
      res.write(buffer);
      buffer.write("two");
      res.end(buffer);
    });
    expect(first.subarray(-6).toString()).toBe("onetwo");
  });
});

describe("headers of earlier middleware", () => {
  const before = (res: ServerResponse): void => {
    res.setHeader("X-App", "app");
    res.setHeader("X-Changed", "before");
    res.setHeader("X-Removed", "yes");
  };

  test("are no part of the record unless the handler changes them", async () => {
    const { first, kept, replay } = await firstAndReplay((res) => {
      res.setHeader("X-Changed", "after");
      res.setHeader("X-App", "app");
      res.removeHeader("X-Removed");
      res.setHeader("Set-Cookie", "session=1");
      res.setHeader("Date", "Thu, 01 Jan 1970 00:00:00 GMT");
      res.end("ok");
    }, before);
    expect(kept.headers).toEqual([["X-Changed", "after"]]);
    expect(kept.removedHeaders).toEqual(["X-Removed"]);
    expect(first.toString()).toContain("Set-Cookie: session=1");
    expect(replay.toString()).toBe(
      crlf(
        "HTTP/1.1 200 OK",
        "X-App: app",
        "X-Changed: after",
        "Connection: close",
        "Content-Length: 2",
        "",
        "ok",
      ),
    );
  });
});

/** What a handler can see of its response: here, on the wire and under a recorder. */
async function observations(
  handler: (res: ServerResponse, see: (what: string) => void) => unknown,
  isRecorded: boolean,
) {
  const seen: string[] = [];
  const watched: Handler = (res) =>
    handler(res, (what) => {
      const code = (work: () => unknown): string => {
        try {
          work();
          return "allowed";
        } catch (error) {
          return (error as { code: string }).code;
        }
      };
      seen.push(
        `${what}: sent ${res.headersSent}, ended ${res.writableEnded}, header ${code(() => res.setHeader("X-Late", "1"))}`,
      );
    });
  await bytesOf(isRecorded ? recorded(watched, nothing) : watched);
  return seen;
}

describe("a handler sees what Node would show it", () => {
  test.each<[string, (res: ServerResponse, see: (what: string) => void) => unknown]>([
    [
      "around writes",
      (res, see) => {
        see("begin");
        res.write("a");
        see("written");
        res.end("b");
        see("ended");
      },
    ],
    [
      "around writeHead",
      (res, see) => {
        see("begin");
        res.writeHead(201, { "X-One": "1" });
        see("head");
        res.end();
        see("ended");
      },
    ],
    [
      "around a flush",
      (res, see) => {
        res.flushHeaders();
        see("flushed");
        res.end();
        see("ended");
      },
    ],
    [
      "around a bare end",
      (res, see) => {
        see("begin");
        res.end();
        see("ended");
      },
    ],
  ])("%s", async (_name, handler) => {
    const bare = await observations(handler, false);
    expect(await observations(handler, true)).toEqual(bare);
    expect(bare.at(-1)).toBe("ended: sent true, ended true, header ERR_HTTP_HEADERS_SENT");
  });

  test("after the end: writes and ends tell their callers, a second head throws", async () => {
    const told: unknown[] = [];
    const bytes = await bytesOf(
      recorded((res) => {
        res.end("done");
        const code = (error?: Error | null): void =>
          void told.push((error as { code?: unknown })?.code);
        told.push(res.write("more", code));
        res.end(code);
        expect(() => res.writeHead(500)).toThrow(
          expect.objectContaining({ code: "ERR_HTTP_HEADERS_SENT" }),
        );
      }, nothing),
    );
    expect(bytes.subarray(-4).toString()).toBe("done");
    expect(told).toEqual([false, "ERR_STREAM_WRITE_AFTER_END", "ERR_STREAM_ALREADY_FINISHED"]);
  });

  test("callbacks of writes and of the end are called, the last one when the bytes have left", async () => {
    const told: string[] = [];
    await bytesOf(
      recorded(
        async (res) => {
          await new Promise<void>((resolve) => res.write("a", () => resolve()));
          told.push("written");
          res.on("finish", () => told.push("finish"));
          res.end("b", () => told.push("ended"));
        },
        () => told.push("kept"),
      ),
    );
    await waitFor(() => told.length === 4);
    expect(told.slice(0, 2)).toEqual(["written", "kept"]);
    expect(told.slice(2).sort()).toEqual(["ended", "finish"]);
  });

  test.each([99, 1000, "abc"])("the status %p is refused as Node does", async (status) => {
    await bytesOf(
      recorded((res) => {
        expect(() => res.writeHead(status as number)).toThrow(
          expect.objectContaining({ code: "ERR_HTTP_INVALID_STATUS_CODE" }),
        );
        res.end();
      }, nothing),
    );
  });

  test("a chunk that is no text and no bytes is refused as Node does", async () => {
    await bytesOf(
      recorded((res) => {
        expect(() => Reflect.apply(Reflect.get(res, "write") as Method, res, [{}])).toThrow(
          expect.objectContaining({ code: "ERR_INVALID_ARG_TYPE" }),
        );
        res.end();
      }, nothing),
    );
  });
});

describe("nothing reaches the socket", () => {
  test("before it is let go", async () => {
    let recording: Recording | undefined;
    let isEnded = false;
    current = (res) => {
      recording = record(res, {
        maxBytes: 1_000,
        onGivenUp: nothing,
        onOverflow: () => "drop",
        onEnd: () => (isEnded = true),
      });
      res.writeHead(201);
      res.flushHeaders();
      res.write("a");
      res.end("b");
    };
    const socket = open();
    const received: Buffer[] = [];
    socket.on("data", (chunk: Buffer) => received.push(chunk));
    await waitFor(() => isEnded);
    // A request on another connection goes all the way meanwhile.
    const held = current;
    await bytesOf((res) => res.end());
    current = held;
    expect(received).toEqual([]);
    recording?.send([["X-Ours", "1"]]);
    await once(socket, "close");
    expect(Buffer.concat(received).toString()).toBe(
      crlf("HTTP/1.1 201 Created", "X-Ours: 1", "Connection: close", "Content-Length: 2", "", "ab"),
    );
  });
});

describe("a client that hangs up in the middle", () => {
  const pipes: [string, (source: Readable, res: ServerResponse) => unknown][] = [
    ["pipe", (source, res) => source.pipe(res)],
    ["pipeline", (source, res) => pipeline(source, res)],
  ];
  test.each(pipes)("of a %s changes nothing of what is kept", async (_name, join) => {
    const source = new PassThrough();
    const events: string[] = [];
    let kept: StoredResponse | undefined;
    let isGone = false;
    current = (res, req) => {
      req.on("close", () => events.push("request closed"));
      req.socket.on("close", () => (isGone = true));
      const recording = record(res, {
        maxBytes: 1 << 20,
        onGivenUp: nothing,
        onOverflow: () => "drop",
        onEnd: (response) => {
          kept = response;
          events.push("kept");
          recording.send([]);
        },
      });
      res.on("close", () => events.push("response closed"));
      source.write("before ");
      return join(source, res);
    };
    const socket = open();
    await waitFor(() => source.readableFlowing === true);
    socket.destroy();
    await waitFor(() => isGone);
    source.end("after");
    await waitFor(() => events.includes("response closed"));
    expect(kept?.body.toString()).toBe("before after");
    expect(events.indexOf("kept")).toBeLessThan(events.indexOf("response closed"));
    expect(events.filter((event) => event === "response closed")).toHaveLength(1);
  });
});

/** A recording that does not let go by itself, of a handler that writes more than fits. */
function overflowing(
  options: Partial<RecorderOptions>,
  then: (recording: Recording) => void,
  handler: Handler,
): Handler {
  return (res, req) => {
    const recording = record(res, {
      maxBytes: 10,
      onGivenUp: nothing,
      onOverflow: () => {
        setImmediate(() => then(recording));
        return "wait";
      },
      onEnd: () => {
        throw new Error("not expected to be kept");
      },
      ...options,
    });
    return handler(res, req);
  };
}

describe("a body that outgrows its limit", () => {
  test("of exactly that many bytes does not", async () => {
    const { first } = await firstAndReplay((res) => res.end("x".repeat(20)), nothing);
    expect(first.subarray(-20).toString()).toBe("x".repeat(20));
    let kept: StoredResponse | undefined;
    await bytesOf(
      recorded(
        (res) => res.end("0123456789"),
        (response) => (kept = response),
        10,
      ),
    );
    expect(kept?.body.toString()).toBe("0123456789");
  });

  test("waits, and then passes as it is written", async () => {
    const steps: string[] = [];
    const bytes = await bytesOf(
      overflowing(
        {},
        (recording) => {
          steps.push("streamed");
          recording.stream([["Idempotency-Stored", "false"]], async () => {
            steps.push("ended");
          });
        },
        async (res) => {
          steps.push(String(res.write("01234567")));
          steps.push(String(res.write("89ab")));
          await once(res, "drain");
          steps.push("drained");
          res.write("cd");
          res.end("ef");
        },
      ),
    );
    expect(steps).toEqual(["true", "false", "streamed", "drained", "ended"]);
    expect(bytes.toString()).toBe(
      crlf(
        "HTTP/1.1 200 OK",
        "Idempotency-Stored: false",
        "Connection: close",
        "Transfer-Encoding: chunked",
        "",
        "c",
        "0123456789ab",
        "2",
        "cd",
        "2",
        "ef",
        "0",
        "",
        "",
      ),
    );
  });

  test("passes as a whole where it ended with the byte that was too much", async () => {
    let ended = 0;
    const bytes = await bytesOf(
      overflowing(
        {},
        (recording) =>
          recording.stream([], async () => {
            ended += 1;
          }),
        (res) => {
          res.end("0123456789ab");
          expect([res.headersSent, res.writableEnded]).toEqual([true, true]);
        },
      ),
    );
    expect(bytes.subarray(-12).toString()).toBe("0123456789ab");
    expect(ended).toBe(1);
  });

  test("gives way to another response, and what the handler still writes goes nowhere", async () => {
    const instead: StoredResponse = {
      status: 409,
      headers: [["X-Code", "outcome_unknown"]],
      body: Buffer.from("{}"),
    };
    const told: unknown[] = [];
    const bytes = await bytesOf(
      overflowing(
        {},
        (recording) => recording.sendInstead(instead, [["X-Ours", "1"]]),
        async (res) => {
          res.writeHead(201, "Charged", { "X-Handler": "1", "Content-Length": "99" });
          await new Promise((resolve) => res.write("0123456789ab", resolve));
          told.push(
            res.write("more", (error) =>
              told.push((error as { code?: unknown } | undefined)?.code),
            ),
          );
          res.end("and more");
        },
      ),
    );
    expect(bytes.toString()).toBe(
      crlf(
        "HTTP/1.1 409 Conflict",
        "X-Code: outcome_unknown",
        "X-Ours: 1",
        "Connection: close",
        "Content-Length: 2",
        "",
        "{}",
      ),
    );
    await waitFor(() => told.length === 2);
    expect(told).toEqual([false, "ERR_STREAM_WRITE_AFTER_END"]);
  });

  test("is thrown away where it may not be sent, without slowing the handler down", async () => {
    let overflows = 0;
    let recording: Recording | undefined;
    const bytes = await bytesOf((res) => {
      recording = record(res, {
        maxBytes: 10,
        onGivenUp: nothing,
        onOverflow: () => {
          overflows += 1;
          return "drop";
        },
        onEnd: () => {
          throw new Error("not expected to be kept");
        },
      });
      expect(res.write("0123456789ab")).toBe(true);
      expect(res.write("more")).toBe(true);
      res.end();
      recording.discard();
      res.statusCode = 500;
      res.end("failed");
    });
    expect(overflows).toBe(1);
    expect(bytes.toString()).toBe(
      crlf(
        "HTTP/1.1 500 Internal Server Error",
        "Connection: close",
        "Content-Length: 6",
        "",
        "failed",
      ),
    );
  });
});

test("what is discarded leaves the response as the handler got it", async () => {
  const expected = crlf(
    "HTTP/1.1 500 Internal Server Error",
    "X-App: app",
    "X-Changed: before",
    "Connection: close",
    "Content-Length: 4",
    "",
    "oops",
  );
  const bytes = await bytesOf((res) => {
    res.setHeader("X-App", "app");
    res.setHeader("X-Changed", "before");
    const methods = (): unknown[] =>
      ["write", "end", "writeHead", "emit"].map((name) => Reflect.get(res, name));
    const methodsBefore = methods();
    const recording = record(res, {
      maxBytes: 100,
      onOverflow: () => "drop",
      onEnd: nothing,
      onGivenUp: nothing,
    });
    res.removeHeader("X-App");
    res.setHeader("X-Changed", "after");
    res.setHeader("X-Handler", "1");
    res.statusMessage = "Fine";
    res.writeHead(201, "Charged", { Link: "<a>" });
    res.write("half of ");
    recording.discard();
    expect([res.headersSent, res.writableEnded, res.statusCode]).toEqual([false, false, 200]);
    expect(methods()).toEqual(methodsBefore);
    expect(Object.getOwnPropertyNames(res)).not.toContain("write");
    res.statusCode = 500;
    res.end("oops");
  });
  expect(bytes.toString()).toBe(expected);
});

test("interim responses are not sent, and their callers go on", async () => {
  const { first } = await firstAndReplay(async (res) => {
    res.writeProcessing();
    await new Promise<void>((resolve) => res.writeEarlyHints({ link: "</a.css>" }, resolve));
    res.end("ok");
  });
  expect(first.toString()).toBe(
    crlf("HTTP/1.1 200 OK", "Connection: close", "Content-Length: 2", "", "ok"),
  );
});

type Method = (...args: unknown[]) => unknown;

/** Works on a response as the package `compression` does: it lies over write, end and writeHead, and answers later. */
function compress(res: ServerResponse): void {
  const [write, end, writeHead] = ["write", "end", "writeHead"].map((name) => {
    const method = Reflect.get(res, name) as (...args: unknown[]) => unknown;
    return (...args: unknown[]) => method.apply(res, args);
  }) as [Method, Method, Method];
  const gzip = createGzip();
  let hasHead = false;
  const setHead = (): void => {
    if (hasHead) return;
    hasHead = true;
    res.setHeader("Content-Encoding", "gzip");
    res.removeHeader("Content-Length");
  };
  gzip.on("data", (chunk: Buffer) => void (write(chunk, "utf8") || gzip.pause()));
  gzip.on("end", () => void end(undefined, "utf8"));
  res.on("drain", () => gzip.resume());
  const imply = (): void => {
    if (!res.headersSent) res.writeHead(res.statusCode);
  };
  Object.assign(res, {
    writeHead: (...args: unknown[]) => {
      setHead();
      return writeHead(...args);
    },
    write: (chunk: string) => {
      imply();
      return gzip.write(chunk);
    },
    end: (chunk?: string) => {
      imply();
      gzip.end(chunk);
      return res;
    },
  });
}

describe("a middleware that compresses", () => {
  const text = "the same words again and again, ".repeat(50);
  const handler: Handler = (res) => {
    res.setHeader("Content-Type", "text/plain");
    res.write(text);
    res.end("and the end");
  };
  /** The body of a response that is framed by chunks. */
  const bodyOf = (bytes: Buffer): string => {
    const head = bytes.indexOf("\r\n\r\n") + 4;
    const isChunked = bytes.subarray(0, head).includes("chunked");
    const parts: Buffer[] = [];
    for (let at = isChunked ? head : bytes.length; at < bytes.length;) {
      const lineEnd = bytes.indexOf("\r\n", at);
      const length = Number.parseInt(bytes.toString("latin1", at, lineEnd), 16);
      parts.push(bytes.subarray(lineEnd + 2, lineEnd + 2 + length));
      at = lineEnd + 4 + length;
    }
    return gunzipSync(isChunked ? Buffer.concat(parts) : bytes.subarray(head)).toString();
  };

  test("in front of the recorder compresses the first response and each replay", async () => {
    const { first, kept, replay } = await firstAndReplay(handler, compress);
    expect(kept.body.toString()).toBe(`${text}and the end`);
    expect(kept.headers).toEqual([["Content-Type", "text/plain"]]);
    expect(first.toString("latin1")).toContain("Content-Encoding: gzip");
    expect(bodyOf(first)).toBe(`${text}and the end`);
    expect(replay.equals(first)).toBe(true);
  });

  test("behind it is recorded with what it does, and its bytes are replayed", async () => {
    const { first, kept, replay } = await firstAndReplay((res, req) => {
      compress(res);
      return handler(res, req);
    });
    expect(kept.headers).toEqual([
      ["Content-Type", "text/plain"],
      ["Content-Encoding", "gzip"],
    ]);
    expect(gunzipSync(kept.body).toString()).toBe(`${text}and the end`);
    expect(bodyOf(first)).toBe(`${text}and the end`);
    expect(replay.equals(first)).toBe(true);
  });

  test("behind it does not keep an error handler from answering", async () => {
    const bytes = await bytesOf((res) => {
      const recording = record(res, {
        maxBytes: 1_000,
        onOverflow: () => "drop",
        onEnd: nothing,
        onGivenUp: nothing,
      });
      compress(res);
      res.write("half");
      recording.discard();
      res.statusCode = 500;
      res.end("oops");
    });
    expect(bytes.toString()).toContain("HTTP/1.1 500 Internal Server Error");
    expect(bytes.subarray(-4).toString()).toBe("oops");
  });
});
