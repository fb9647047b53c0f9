/**
 * Messages of the frontend/backend protocol, as one buffer (PostgreSQL, 55.7 Message Formats). Owns: their bytes. The driver has
 * the same, one write each: a single buffer costs the system a fraction of as many pieces.
 */

/** Parameters travel as text, buffers in binary, both in the type that the server infers. */
export type WireValue = string | Buffer | null;

export interface WireCall {
  /** Empty: not prepared under a name. */
  readonly name: string;
  readonly text: string;
  readonly values: readonly WireValue[];
  /** False: prepared already. */
  readonly isParsed: boolean;
}

const int16 = 2;
const int32 = 4;
/** A message's type and its length, which counts itself and what follows. */
const head = 1 + int32;
const code = { parse: 0x50, bind: 0x42, execute: 0x45, close: 0x43, sync: 0x53, statement: 0x53 };
const noTypes = 0;
const inText = 0;
const inBinary = 1;
const isNull = -1;
const allRows = 0;

/** Close, Parse, Bind and Execute of each call, and one Sync. */
export function encodeCalls(calls: readonly WireCall[]): Buffer {
  const sizes = calls.map(sizeOf);
  const total = sizes.reduce(
    (sum, { close, parse, bind, execute }) => sum + close + parse + bind + execute,
    head,
  );
  const writer = new Writer(Buffer.allocUnsafe(total));
  calls.forEach(({ name, text, values, isParsed }, index) => {
    const size = sizes[index] as Sizes;
    if (size.close > 0) {
      writer.begin(code.close, size.close);
      writer.byte(code.statement);
      writer.text(name);
    }
    if (!isParsed) {
      writer.begin(code.parse, size.parse);
      writer.text(name);
      writer.text(text);
      writer.short(noTypes);
    }
    writer.begin(code.bind, size.bind);
    writer.text("");
    writer.text(name);
    writer.values(values);
    writer.short(1);
    writer.short(inText);
    writer.begin(code.execute, size.execute);
    writer.text("");
    writer.long(allRows);
  });
  writer.begin(code.sync, head);
  return writer.bytes;
}

interface Sizes {
  readonly close: number;
  readonly parse: number;
  readonly bind: number;
  readonly execute: number;
}

function sizeOf({ name, text, values, isParsed }: WireCall): Sizes {
  const named = textSize(name);
  const given = values.reduce((sum, value) => sum + int32 + sizeOfValue(value), 0);
  const formats = values.length * int16;
  return {
    // Closing a name that is not there is no error.
    close: isParsed || name === "" ? 0 : head + 1 + named,
    parse: isParsed ? 0 : head + named + textSize(text) + int16,
    bind: head + 1 + named + int16 + formats + int16 + given + int16 + int16,
    execute: head + 1 + int32,
  };
}

function textSize(text: string): number {
  return Buffer.byteLength(text) + 1;
}

function sizeOfValue(value: WireValue): number {
  if (value === null) return 0;
  return typeof value === "string" ? Buffer.byteLength(value) : value.length;
}

class Writer {
  readonly bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }

  begin(type: number, size: number): void {
    this.byte(type);
    this.long(size - 1);
  }

  byte(value: number): void {
    this.#at = this.bytes.writeUInt8(value, this.#at);
  }

  short(value: number): void {
    this.#at = this.bytes.writeUInt16BE(value, this.#at);
  }

  long(value: number): void {
    this.#at = this.bytes.writeInt32BE(value, this.#at);
  }

  /** A zero ends it. */
  text(text: string): void {
    this.#at += this.bytes.write(text, this.#at);
    this.byte(0);
  }

  values(values: readonly WireValue[]): void {
    this.short(values.length);
    for (const value of values) this.short(Buffer.isBuffer(value) ? inBinary : inText);
    this.short(values.length);
    for (const value of values) {
      this.long(value === null ? isNull : sizeOfValue(value));
      if (typeof value === "string") this.#at += this.bytes.write(value, this.#at);
      else if (value !== null) this.#at += value.copy(this.bytes, this.#at);
    }
  }
}
