/**
 * The forms that options must have, name by name. Owns: what of an option can be judged without the others.
 */
import { z } from "zod";
import { isFieldName } from "./ignored-fields.js";
import type { Cache, Store } from "./ports.js";
import { isolations } from "./sql-session.js";
import { storeHeadersProblems } from "./stored-headers.js";
import type { StoreHeaders } from "./stored-headers.js";

const day = 24 * 60 * 60_000;

/** setTimeout's largest delay; a longer one would fire at once. */
const longestTimerMs = 2 ** 31 - 1;
const timerMs = z.number().int().min(1).max(longestTimerMs);
const windowMs = z
  .number()
  .int()
  .min(1)
  .max(3650 * day);

/** RFC 9110, section 5.6.2: a token. */
const headerNames = z.array(z.string().regex(/^[\w!#$%&'*+.^`|~-]+$/, "must be a header's name"));

const fieldName = z
  .string()
  .refine(
    isFieldName,
    "must name a field of the body or the query, such as body.sentAt, body.items[*].note or query.trace",
  );

export const routeShape = {
  required: z.boolean().optional(),
  key: aFunction().optional(),
  fingerprint: aFunction().optional(),
  ignoreFields: z.array(fieldName).optional(),
  concurrent: z.union([z.literal("reject"), z.strictObject({ waitMs: timerMs })]).optional(),
  preferWaitMs: z.number().int().min(0).max(longestTimerMs).optional(),
  serverErrors: z.enum(["store", "release"]).optional(),
  releaseOn: z.array(z.number().int().min(200).max(599)).optional(),
  afterCrash: z.enum(["unknown", "rerun"]).optional(),
  reconcile: aFunction().optional(),
  weakKeys: z.enum(["warn", "reject", "allow"]).optional(),
  // Postgres' bytea ends at 1 GB; what is held in memory for every request should end long before.
  maxResponseBytes: z
    .number()
    .int()
    .min(0)
    .max(64 * 1024 * 1024)
    .optional(),
  storeHeaders: z
    .strictObject({ only: headerNames.optional(), except: headerNames.optional() })
    .superRefine((given, context) => {
      for (const message of storeHeadersProblems(given as StoreHeaders))
        context.addIssue({ code: "custom", message });
    })
    .optional(),
  stream: z.boolean().optional(),
  handlerTimeoutMs: z.number().int().min(0).max(longestTimerMs).optional(),
  replayWindowMs: windowMs.optional(),
  dedupeWindowMs: windowMs.optional(),
  maxRunMs: timerMs.optional(),
  transactionTimeoutMs: timerMs.optional(),
  isolation: z.enum(isolations).optional(),
  // Where ten are in each other's way again and again, an eleventh try makes it worse.
  transactionRetries: z.number().int().min(0).max(10).optional(),
};

const secretText = z.string().min(16, "must have at least 16 characters");
export const stepsShape = {
  keepHeaders: z.array(z.string().min(1)).optional(),
  stepTimeoutMs: timerMs.optional(),
  maxAttempts: z.number().int().min(1).max(1_000).optional(),
};

const secretShape = z.strictObject({
  id: z.string().regex(/^[\w-]{1,32}$/, "must be 1 to 32 of A-Z a-z 0-9 _ -"),
  value: z.union([
    secretText,
    z.instanceof(Uint8Array).refine((bytes) => bytes.length >= 16, "must have at least 16 bytes"),
  ]),
});
/** Of two secrets with one id, the one that a stored fingerprint was made with could not be told. */
const secretsShape = z
  .array(secretShape)
  .min(1)
  .refine(
    (secrets) => new Set(secrets.map(({ id }) => id)).size === secrets.length,
    "must have different ids",
  );

export const instanceShape = z.strictObject({
  ...routeShape,
  store: withMethods<Store>(
    "store",
    ["claim", "takeOver", "complete", "release", "heartbeat", "find"],
    "postgresStore({ pool })",
  ),
  cache: withMethods<Cache>(
    "cache",
    ["look", "keep", "unmark"],
    "redisCache({ client })",
  ).optional(),
  nearCache: z
    .union([
      z.literal(false),
      z.strictObject({
        maxBytes: z
          .number()
          .int()
          .min(64 * 1024)
          .optional(),
        maxAgeMs: timerMs.optional(),
      }),
    ])
    .optional(),
  scope: z.custom((value) => value === "global" || typeof value === "function", {
    error: 'is required: a function of the request that names the tenant, or "global"',
  }),
  secret: z.union([secretText, secretShape, secretsShape]).optional(),
  dialect: z.enum(["ietf", "stripe"]).optional(),
  methods: z
    .array(z.string().regex(/^[A-Z]+$/, "must be upper-case method names"))
    .min(1)
    .optional(),
  leaseMs: timerMs.optional(),
  heartbeatMs: timerMs.optional(),
  claimTimeoutMs: timerMs.optional(),
  completeTimeoutMs: timerMs.optional(),
  requestId: aFunction().optional(),
  workers: z.boolean().optional(),
  dangerouslyRunWithoutStore: z.union([z.boolean(), aFunction()]).optional(),
  hooks: z.strictObject({ onEvent: aFunction().optional() }).optional(),
});

/** Every problem of what was given, unknown names included. */
export function shapeProblems(shape: z.ZodType, given: unknown): string[] {
  const result = shape.safeParse(given);
  if (result.success) return [];
  return result.error.issues.flatMap((issue) => {
    if (issue.code === "unrecognized_keys")
      return issue.keys.map((name) => `${name}: is not an option`);
    return [`${issue.path.join(".") || "options"}: ${issue.message}`];
  });
}

/** An object with these methods. */
export function withMethods<Port>(
  name: string,
  methods: readonly string[],
  example: string,
): z.ZodType<Port> {
  const has = (value: unknown): boolean =>
    typeof value === "object" &&
    value !== null &&
    methods.every((method) => typeof (value as Record<string, unknown>)[method] === "function");
  return z.custom<Port>(has, { error: `must be a ${name} such as ${example}` });
}

function aFunction(): z.ZodType {
  return z.custom((value) => typeof value === "function", { error: "must be a function" });
}
