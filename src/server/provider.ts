/**
 * A payment provider for demos and tests: a service apart that takes charges by HTTP and keeps books of its own. Owns: what it
 * promises about idempotency keys, and misbehaving exactly as `POST /control` tells it to. No part of the API: checkouts reach
 * it by its URL alone, as they would reach a real one.
 */
import express from "express";
import type { Express, Request, Response } from "express";
import { setTimeout as pause } from "node:timers/promises";
import { z } from "zod";
import { listen } from "./listener.js";
import { openLedger } from "./provider-ledger.js";
import type { LedgerLine, ProviderChargeRequest, ProviderLedger } from "./provider-ledger.js";
import { beSlow } from "./slowness.js";

export interface Provider {
  readonly url: string;
  readonly port: number;
  close(): Promise<void>;
}

export interface ProviderOptions {
  /** The file that its ledger is kept in. */
  readonly ledgerFile: string;
  /** Whether a key charges once. Default true; `POST /control` can change it. */
  readonly honoursKeys?: boolean;
  /** Default: any free port of 127.0.0.1. */
  readonly port?: number;
}

const declinedSource = "tok_chargeDeclined";
/** Longest wait that can be asked for; what should last longer is paused. */
const maxDelayMs = 600_000;
const maxFaults = 1_000;

const chargeShape = z.strictObject({
  amount: z.int().min(1),
  currency: z.string().length(3),
  source: z.string().min(1).max(255),
  reference: z.string().min(1).max(255),
});

/** One way to misbehave. What is not named stays as it should be. */
const faultShape = z.strictObject({
  /** Only for charges of this reference or source. */
  match: z.string().optional(),
  /** For so many charges; default 1. */
  times: z.int().min(1).optional(),
  /** Before or after the charge is in the ledger; default `received`. */
  at: z.enum(["received", "charged"]).optional(),
  /** Waits so long, */
  delayMs: z.int().min(0).max(maxDelayMs).optional(),
  /** or until `POST /control` with `resume`, */
  pause: z.boolean().optional(),
  /** and then answers this status, */
  status: z.int().min(400).max(599).optional(),
  /** or cuts the connection; else goes on as if nothing had been. */
  cut: z.boolean().optional(),
});
const controlShape = z.strictObject({
  honoursKeys: z.boolean().optional(),
  /** Replaces the faults that were set. */
  faults: z.array(faultShape).max(maxFaults).optional(),
  resume: z.boolean().optional(),
});

type Fault = z.infer<typeof faultShape>;
type Moment = NonNullable<Fault["at"]>;

/** Starts a provider on 127.0.0.1. */
export async function startProvider(options: ProviderOptions): Promise<Provider> {
  const ledger = openLedger(options.ledgerFile);
  const misconduct = createMisconduct();
  const app = createProviderApp(ledger, misconduct, options.honoursKeys ?? true);
  const listener = await listen(app, { port: options.port ?? 0, host: "127.0.0.1" });
  return {
    url: listener.url,
    port: listener.port,
    close: async () => {
      misconduct.resume();
      await listener.close();
      await ledger.close();
    },
  };
}

function createProviderApp(
  ledger: ProviderLedger,
  misconduct: Misconduct,
  honoursKeys: boolean,
): Express {
  const state = { honoursKeys, received: 0 };
  const inFlight = new Set<string>();

  const charge = async (request: ProviderChargeRequest, key: string | null, res: Response) => {
    if (!(await misconduct.suffer("received", request, res))) return;
    await beSlow(request.source);
    const line = await ledger.book(request, {
      key,
      honoured: state.honoursKeys,
      declined: request.source === declinedSource,
    });
    if (!(await misconduct.suffer("charged", request, res))) return;
    if (!isSame(line, request)) refuse(res, 422, "idempotency_key_reused");
    else res.status(line.status === "declined" ? 402 : 200).json(toCharge(line));
  };

  const app = express();
  app.disable("x-powered-by");
  app.use(express.json());
  app.post("/charges", async (req, res) => {
    state.received += 1;
    const parsed = chargeShape.safeParse(req.body);
    if (!parsed.success) return refuse(res, 400, "invalid_request");
    const key = req.get("Idempotency-Key") ?? null;
    if (key === null || !state.honoursKeys) return charge(parsed.data, key, res);
    // As Stripe answers it: the asker comes back when the first one is through.
    if (inFlight.has(key)) return refuse(res, 409, "idempotency_key_in_use");
    inFlight.add(key);
    try {
      await charge(parsed.data, key, res);
    } finally {
      inFlight.delete(key);
    }
  });
  app.get("/charges", async (req: Request, res) => {
    const { key } = req.query;
    if (typeof key !== "string") return refuse(res, 400, "invalid_request");
    res.json({ data: (await ledger.read(key)).map(toCharge) });
  });
  app.get("/ledger", async (_req, res) => {
    res.json({ data: await ledger.read() });
  });
  app.get("/control", (_req, res) => {
    res.json({ ...state, paused: misconduct.paused });
  });
  app.post("/control", (req, res) => {
    const parsed = controlShape.safeParse(req.body);
    if (!parsed.success) return refuse(res, 400, "invalid_request");
    const { honoursKeys: honours, faults, resume } = parsed.data;
    if (honours !== undefined) state.honoursKeys = honours;
    if (faults !== undefined) misconduct.set(faults);
    if (resume === true) misconduct.resume();
    res.json({ ...state, paused: misconduct.paused });
  });
  return app;
}

interface Misconduct {
  /** Charges that are held back now. */
  readonly paused: number;
  set(faults: readonly Fault[]): void;
  /** Lets go on what is paused. */
  resume(): void;
  /** Does what was asked for; false when the answer has been given, or never will be. */
  suffer(moment: Moment, request: ProviderChargeRequest, res: Response): Promise<boolean>;
}

function createMisconduct(): Misconduct {
  let faults: { readonly fault: Fault; left: number }[] = [];
  const waiting = new Set<() => void>();

  const draw = (moment: Moment, { reference, source }: ProviderChargeRequest): Fault => {
    const found = faults.find(({ fault: { match, at = "received" }, left }) => {
      const isMeant = match === undefined || match === reference || match === source;
      return left > 0 && at === moment && isMeant;
    });
    if (found === undefined) return {};
    found.left -= 1;
    return found.fault;
  };
  return {
    get paused() {
      return waiting.size;
    },
    set: (given) => {
      faults = given.map((fault) => ({ fault, left: fault.times ?? 1 }));
    },
    resume: () => {
      for (const goOn of waiting) goOn();
      waiting.clear();
    },
    suffer: async (moment, request, res) => {
      const fault = draw(moment, request);
      if (fault.delayMs !== undefined) await pause(fault.delayMs);
      if (fault.pause === true) await new Promise<void>((goOn) => waiting.add(goOn));
      if (fault.cut === true) res.socket?.resetAndDestroy();
      else if (fault.status !== undefined) refuse(res, fault.status, "told_to_fail");
      return fault.cut !== true && fault.status === undefined;
    },
  };
}

function refuse(res: Response, status: number, code: string): void {
  res.status(status).json({ error: { code } });
}

function isSame(line: LedgerLine, request: ProviderChargeRequest): boolean {
  return (["amount", "currency", "source", "reference"] as const).every(
    (name) => line[name] === request[name],
  );
}

function toCharge({ id, status, amount, currency, reference }: LedgerLine) {
  return { id, object: "charge", status, amount, currency, reference };
}
