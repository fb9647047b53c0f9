/**
 * Recovery points on Postgres. Owns: that every write of a step happens under its claim, and what a lost reply to the COMMIT
 * of a step's transaction means.
 */
import type { RecordedStep, StepCommit, StepRef, StepsSource } from "../core/steps-port.js";
import { repeatedEvent } from "../core/outbox-message.js";
import type { Claim } from "../core/record.js";
import { textArray, uuidArray } from "./binary-array.js";
import type { Connections, Statement, TextRows } from "./connections.js";
import { insertOutbox } from "./outbox.js";
import { wakeOutbox } from "./outbox-wake.js";
import { toObservation } from "./rows.js";
import { openSession } from "./transaction-session.js";
import type { Session, TransactionContext } from "./transaction-session.js";

/** A row of steps-load.sql. */
function toStep([position, name, kind, state, result = null]: TextRows[number]): RecordedStep {
  return {
    position: Number(position),
    name: name as string,
    kind: kind as RecordedStep["kind"],
    state: state as RecordedStep["state"],
    result: result === null ? null : (JSON.parse(result) as unknown),
  };
}

/** `claims` for what reads and claims, the context's own connections for what holders write. */
export function createStepsSource(context: TransactionContext, claims: Connections): StepsSource {
  const { own, statements } = context;
  const wrote = ({ length }: TextRows): "ok" | "lost" => (length === 1 ? "ok" : "lost");
  const save = async (
    claim: Claim,
    step: StepRef,
    state: "intended" | "done",
    result: string | null,
  ): Promise<"ok" | "lost"> => {
    return wrote(await own.run(statements["steps-save"], saveValues(claim, step, state, result)));
  };
  return {
    load: async (claim) => {
      const rows = await claims.run(statements["steps-load"], [claim.scope, claim.key]);
      return rows.map(toStep);
    },
    intend: (claim, step) => save(claim, step, "intended", null),
    save: (claim, step, result) => save(claim, step, "done", result),
    send: async (claim, step, message) => {
      const sent = await own.withClient(async (client) => {
        const run = (statement: Statement, values: readonly unknown[]) =>
          client.query(statement.text, [...values]);
        const result = JSON.stringify({ eventId: message.eventId });
        await client.query(own.begin);
        const saved = await run(statements["steps-save"], saveValues(claim, step, "done", result));
        const isHeld = saved.rowCount === 1;
        const added = isHeld ? await insertOutbox(run, statements, message) : "lost";
        await client.query(added === "added" ? "COMMIT" : "ROLLBACK");
        return added;
      });
      if (sent === "exists") throw repeatedEvent();
      if (sent === "lost") return "lost";
      wakeOutbox(context.pool, context.schema);
      return "ok";
    },
    transaction: (claim, step, limits, work) => runTransaction(context, claim, step, limits, work),
    park: async (claim, error, retryInMs) => {
      const values = [...holder(claim), error, retryInMs ?? null];
      const parked = await own.run(statements.park, values);
      // Whoever waits may go on with it.
      context.hints.tellAnybody(claim);
      return wrote(parked);
    },
    claimDue: async (handlers, claimIds, leaseMs) => {
      const rows = await claims.run(statements["claim-due"], [
        textArray(handlers),
        uuidArray(claimIds),
        leaseMs,
      ]);
      return rows.map((row) => toObservation(row).record);
    },
  };
}

async function runTransaction(
  context: TransactionContext,
  claim: Claim,
  step: StepRef,
  limits: Parameters<StepsSource["transaction"]>[2],
  work: Parameters<StepsSource["transaction"]>[3],
): Promise<StepCommit> {
  const { statements } = context;
  const { session } = await openSession(context, limits);
  try {
    const held = await session.run(statements["steps-lock"], holder(claim));
    if (held.rowCount !== 1) return await abandon(session);
    const result = await work(session.open.tx);
    const values = saveValues(claim, step, "done", result);
    const saved = await session.run(statements["steps-save"], values);
    if (saved.rowCount !== 1) return await abandon(session);
  } catch (error) {
    await session.open.rollback();
    throw error;
  }
  const answer = await session.open.commit();
  if (answer.kind === "committed") return "committed";
  if (answer.kind === "rolled_back") throw answer.cause;
  return settle(context, claim, step);
}

async function abandon(session: Session): Promise<"lost"> {
  await session.open.rollback();
  return "lost";
}

/** Waits for the in-doubt transaction, which holds the key's row, and looks whether its step is there. */
function settle(context: TransactionContext, claim: Claim, step: StepRef): Promise<StepCommit> {
  const { own, statements, settleTimeoutMs } = context;
  return own.withClient(async (client) => {
    await client.query(own.begin);
    const limit = String(Math.round(settleTimeoutMs));
    await client.query("SELECT set_config('statement_timeout', $1, true)", [limit]);
    const locked = `${statements.find.text} FOR UPDATE OF k`;
    await client.query(locked, [[claim.scope], [claim.key]]);
    const found = await client.query<Pick<RecordedStep, "position" | "state">>(
      statements["steps-load"].text,
      [claim.scope, claim.key],
    );
    await client.query("ROLLBACK");
    const isThere = found.rows.some(
      (row) => row.position === step.position && row.state === "done",
    );
    return isThere ? "committed" : "not_committed";
  });
}

function holder(claim: Claim): unknown[] {
  return [claim.scope, claim.key, claim.claimId, claim.token];
}

function saveValues(
  claim: Claim,
  step: StepRef,
  state: "intended" | "done",
  result: string | null,
): unknown[] {
  return [...holder(claim), step.position, step.name, step.kind, state, result];
}
