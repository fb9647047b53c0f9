/**
 * Settling the unknown outcome of a plain route by asking the user's own hook. Owns: that nothing is settled under a holder
 * that has come back, and that a hook that fails settles nothing.
 */
import type { StepsReply } from "./attempt.js";
import { downstreamKey } from "./downstream-key.js";
import type { IdempotencyEvent } from "./events.js";
import type { Store } from "./ports.js";
import type { KeyRecord, Windows } from "./record.js";
import { toResponse } from "./reply.js";

/** What is known of a request whose outcome is not. */
export interface UnknownRequest {
  readonly scope: string;
  readonly key: string;
  readonly method: string;
  readonly path: string;
  /** The request id of the first execution. */
  readonly requestId: string;
  readonly attempt: number;
  readonly token: number;
  /** The key that the handler was given for a call of this name. */
  downstreamKey(name: string): string;
}

export type Reconcile = (
  request: UnknownRequest,
) => StepsReply | "not_executed" | "unknown" | Promise<StepsReply | "not_executed" | "unknown">;

/** `completed`: look again, there is a response now. `not_executed`: the key may be taken over. */
export type Reconciliation = "completed" | "not_executed" | "unknown";

export async function reconcile(
  context: { readonly store: Store; readonly onEvent: (event: IdempotencyEvent) => void },
  hook: Reconcile,
  record: KeyRecord,
  windows: Windows,
): Promise<Reconciliation> {
  const { store, onEvent } = context;
  // Bytes of its response may have reached the client, so no other answer may follow.
  if (record.state !== "running" || record.guarantee !== "at_most_once" || record.notStored)
    return "unknown";
  const { scope, key, method, path, requestId, attempt, token } = record;
  const request: UnknownRequest = {
    scope,
    key,
    method,
    path,
    requestId,
    attempt,
    token,
    downstreamKey: (name) => downstreamKey(record, name),
  };
  try {
    const answer = await hook(request);
    if (answer === "unknown" || answer === "not_executed") {
      onEvent({ type: "reconciled", outcome: answer });
      return answer;
    }
    const settler = { by: "reconcile", why: "the route's reconcile hook answered" };
    const settled = await store.operations?.resolveCompleted(
      record,
      toResponse(answer),
      windows,
      settler,
    );
    onEvent({ type: "reconciled", outcome: settled === "ok" ? "completed" : "unknown" });
    // Refused: somebody else settled or completed it meanwhile, and a second look tells what.
    return settled === undefined ? "unknown" : "completed";
  } catch (error) {
    onEvent({ type: "store_error", during: "reconcile", error });
    return "unknown";
  }
}
