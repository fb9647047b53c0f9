/**
 * Keys as the client sends them. Owns: which texts it sends, and random ones. Must never mend a key: another text is another
 * key, and another key is another effect.
 */

/** The server's limit (`maxKeyLength` of core, which a test holds this against: importing it brings a parser along). */
export const longestKey = 255;

/**
 * Printable ASCII without quotation marks or outer spaces, which a server may take away; or that in the quoted form of
 * draft-ietf-httpapi-idempotency-key-header, where a backslash would be an escape.
 */
const sendable = /^(?:[!#-~](?:[ !#-~]*[!#-~])?|"[ !#-[\]-~]+")$/;

/**
 * A key that nobody else will make: 128 random bits as 32 hexadecimal digits. `crypto.randomUUID` would be missing in pages
 * without https.
 */
export function randomKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Throws a TypeError, which does not show the key, for one that a server might refuse or read as another. */
export function checkedKey(key: string): string {
  const outside = key.startsWith('"') ? 2 : 0;
  if (sendable.test(key) && key.length - outside <= longestKey) return key;
  throw new TypeError(
    `An idempotency key is 1 to ${longestKey} printable ASCII characters without quotation marks and outer spaces.`,
  );
}
