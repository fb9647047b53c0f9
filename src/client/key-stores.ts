/**
 * Where keys wait for the page that is reloaded and the job that is started again. Owns: the port, and the stores of browsers.
 * Must never answer another key while one is kept for the same call.
 */

/** Keeps the keys of calls. What it throws ends the call before anything has been sent. */
export interface KeyStore {
  /**
   * Keeps `key` for the call unless one is kept already, and answers the one that is kept. It must be one atomic act (as
   * `INSERT … ON CONFLICT DO NOTHING`, `SET … NX` or `open` with `wx`), or two at once may use two keys; and the key must be
   * safe against whatever the caller wants to survive when this resolves, since the request leaves right after it.
   */
  keep(call: string, key: string): string | Promise<string>;
  /** Lets go of the call's key; nothing happens where there is none. */
  forget(call: string): unknown;
}

/** What is used of `localStorage` or `sessionStorage`. */
export interface WebStorage {
  getItem(name: string): string | null;
  setItem(name: string, value: string): void;
  removeItem(name: string): void;
}

/** Of the Web Locks API, where there is one. https://w3c.github.io/web-locks/ */
type Locks = { request<Answer>(name: string, work: () => Answer): Promise<Answer> };

/**
 * Keys in `localStorage` (or in `sessionStorage`, for this tab alone). They survive a reload. What they do not survive for
 * certain is the death of the whole browser, since browsers write the storage to disk some seconds later. And tabs that make
 * the same call at the same moment take turns by Web Locks, but HTML does not promise that one sees at once what another has
 * written. {@link indexedDbKeys} has neither weakness.
 *
 * @param prefix is put in front of the call's name. Default `oncekey:`.
 */
export function webStorageKeys(storage: WebStorage, prefix = "oncekey:"): KeyStore {
  const { locks } = (globalThis as { navigator?: { locks?: Locks } }).navigator ?? {};
  return {
    keep(call, key) {
      const name = prefix + call;
      const keepOnce = (): string => {
        const kept = storage.getItem(name);
        if (kept !== null) return kept;
        storage.setItem(name, key);
        return key;
      };
      return locks === undefined ? keepOnce() : locks.request(name, keepOnce);
    },
    forget: (call) => storage.removeItem(prefix + call),
  };
}

/** What is used of IndexedDB; the types of browsers are not there in Node. */
type Events<Name extends string> = { addEventListener(name: Name, listener: () => void): void };
type Asked<Result> = Events<"success" | "error"> & { result: Result; error: Error };
type ObjectStore = {
  get(name: string): Asked<string | undefined>;
  put(value: string, name: string): unknown;
  delete(name: string): unknown;
};
type Transaction = Events<"complete" | "abort"> & {
  objectStore(name: string): ObjectStore;
  error: Error;
};
type Database = {
  createObjectStore(name: string): unknown;
  transaction(store: string, mode: string, options: { durability: string }): Transaction;
  close(): void;
};
type Opening = Asked<Database> & Events<"success" | "error" | "upgradeneeded">;

const table = "keys";

/**
 * Keys in IndexedDB, the store to use in pages: transactions of all tabs come one after the other, so two tabs never use two
 * keys for one call, and a key is on disk (durability `strict`) before the request leaves.
 *
 * @param database is the name of the database. Default `oncekey`.
 */
export function indexedDbKeys(database = "oncekey"): KeyStore {
  const inTransaction = <Answer>(
    work: (store: ObjectStore, answer: (value: Answer) => void) => void,
  ): Promise<Answer> =>
    new Promise((resolve, reject) => {
      const { indexedDB } = globalThis as unknown as {
        indexedDB: { open(name: string): Opening };
      };
      const opening = indexedDB.open(database);
      opening.addEventListener("upgradeneeded", () => opening.result.createObjectStore(table));
      opening.addEventListener("error", () => reject(opening.error));
      opening.addEventListener("success", () => {
        const opened = opening.result;
        const transaction = opened.transaction(table, "readwrite", { durability: "strict" });
        let answered: Answer;
        transaction.addEventListener("complete", () => {
          opened.close();
          resolve(answered);
        });
        transaction.addEventListener("abort", () => {
          opened.close();
          reject(transaction.error);
        });
        work(transaction.objectStore(table), (value) => (answered = value));
      });
    });
  return {
    keep: (call, key) =>
      inTransaction<string>((store, answer) => {
        const kept = store.get(call);
        kept.addEventListener("success", () => {
          if (kept.result === undefined) store.put(key, call);
          answer(kept.result ?? key);
        });
      }),
    forget: (call) => inTransaction<undefined>((store) => void store.delete(call)),
  };
}
