/**
 * Rows that another one of their key has beaten within a batch. Owns: that they are still there where the server refuses that one.
 * Rows that are the same as the one that was kept are not among them. Their bytes count as the batch's, which bounds them.
 */
import type { KeptRows, RowPlace } from "./kept-rows.js";

interface BeatenRow<Row> extends RowPlace {
  readonly row: Row;
  readonly rowNumber: number;
  /** Among the rows that are kept, where it was asked for. */
  place: number | undefined;
}

export class BeatenRows<Row> {
  readonly #kept: KeptRows<Row>;
  /** By the place of the row that has beaten them, in the order in which they came. */
  readonly #rows = new Map<number, BeatenRow<Row>[]>();

  constructor(kept: KeptRows<Row>) {
    this.#kept = kept;
  }

  add(winner: number, row: Row, rowNumber: number, { start, keyEnd, end }: RowPlace): void {
    const beaten = { row, rowNumber, start, keyEnd, end, place: undefined };
    const others = this.#rows.get(winner);
    if (others === undefined) this.#rows.set(winner, [beaten]);
    else others.push(beaten);
  }

  /** The row that stands in a place, before another one is put there. */
  addKept(place: number): void {
    const { rows, numbers, starts, keyEnds, ends } = this.#kept;
    this.add(place, rows[place] as Row, numbers[place] as number, {
      start: starts[place] as number,
      keyEnd: keyEnds[place] as number,
      end: ends[place] as number,
    });
  }

  /** Gives them places, behind all rows that are kept; they are in no order of the batch by that. */
  placesOf(winner: number): number[] {
    return (this.#rows.get(winner) ?? []).map((beaten) => {
      if (beaten.place === undefined) {
        beaten.place = this.#kept.size;
        this.#kept.push(beaten.row, beaten.rowNumber, beaten, 0, true);
      }
      return beaten.place;
    });
  }

  /** Hands them on to the one of them that takes the winner's place, but for those that are `gone`. */
  pass(winner: number, heir: number, gone: ReadonlySet<number>): void {
    const left = this.#rows.get(winner)?.filter(({ place }) => !gone.has(place as number));
    this.#rows.delete(winner);
    if (left !== undefined) this.#rows.set(heir, left);
  }

  clear(): void {
    this.#rows.clear();
  }
}
