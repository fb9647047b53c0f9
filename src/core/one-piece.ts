/** How V8 keeps texts. Owns: one trick that changes nothing that a program can see. */

/** The same text. V8 puts texts together only when somebody reads a character, and keeps every piece until then. */
export function inOnePiece(text: string): string {
  text.charCodeAt(0);
  return text;
}
