/**
 * A claim that nobody used. Owns: what of it may be given back.
 */
import type { Guarantee } from "./record.js";

/**
 * True where the key can be free again as if the claim had never been made. One that took over unfinished work stays as it is
 * until its lease ends: its record is all that is known of that work, and without it another request could run under the key.
 * Of steps the store keeps what there is.
 */
export function isFree(attempt: number, guarantee: Guarantee): boolean {
  return attempt === 1 || guarantee === "steps";
}
