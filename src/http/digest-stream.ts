/**
 * Holds a body against its Content-Digest while a handler streams it. Owns: nothing but the pass-through; bytes are not kept.
 */
import type { IncomingMessage } from "node:http";
import { Transform } from "node:stream";
import { DigestCheck, parseContentDigest, statedDigest } from "../core/content-digest.js";
import { headerLines } from "../core/key.js";

/**
 * A pass-through for a body that no parser has read: `await pipeline(req, verifyContentDigest(req), destination)`. It fails with
 * `digest_invalid` at the end unless the bytes are those that the Content-Digest header (RFC 9530) states, so that
 * what the fingerprint took at its word is checked before the handler answers.
 *
 * @throws `digest_invalid` at once where the header has no usable sha-256 or sha-512 member
 */
export function verifyContentDigest(req: IncomingMessage): Transform {
  const digests = parseContentDigest(headerLines(req.rawHeaders, "content-digest"));
  statedDigest(digests);
  const check = new DigestCheck(digests);
  return new Transform({
    transform(chunk: Uint8Array, _encoding, done) {
      check.update(chunk);
      done(null, chunk);
    },
    flush(done) {
      try {
        check.end();
        done();
      } catch (error) {
        done(error as Error);
      }
    },
  });
}
