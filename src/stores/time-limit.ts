/**
 * Rejects after the time, so that a connection into nowhere cannot hold a request for ever. The work itself goes on; who
 * calls this sees to what it leaves behind.
 */
export function within<T>(work: Promise<T>, ms: number): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error("no answer from Postgres in time")), ms);
    work.then(
      (value) => {
        clearTimeout(timer);
        return resolve(value);
      },
      (error: unknown) => {
        clearTimeout(timer);
        // What the work rejects with is passed on as it is.
        // oxlint-disable-next-line typescript/prefer-promise-reject-errors
        reject(error);
      },
    );
  });
}

/** The server's own time-out says more than ours, so it goes first. */
export const limitGraceMs = 250;
