/**
 * Rejects after the time, so that a connection into nowhere cannot hold a request for ever. The work itself goes on; who
 * calls this sees to what it leaves behind.
 */
export async function within<T>(work: Promise<T>, ms: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error("no answer from Postgres in time")), ms);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** The server's own time-out says more than ours, so it goes first. */
export const limitGraceMs = 250;
