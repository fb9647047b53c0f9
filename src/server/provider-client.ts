/**
 * The payment provider as checkouts see it. Owns: what each of its answers means. Everything that is not a clear answer is
 * thrown, since the charge may have been made.
 */
import { z } from "zod";
import type { ProviderChargeRequest } from "./provider-ledger.js";

export type { ProviderChargeRequest } from "./provider-ledger.js";

/** A charge, or the provider's definitive refusal to make it. */
export type ProviderAnswer =
  | { readonly kind: "charged"; readonly id: string }
  | { readonly kind: "declined"; readonly id: string };

export interface ProviderClient {
  /** Charges. `key` is sent as `Idempotency-Key`; rejects where it is not certain what happened. */
  charge(
    request: ProviderChargeRequest,
    call: { readonly key: string; readonly signal: AbortSignal },
  ): Promise<ProviderAnswer>;
  /** What became of the charge with this key; undefined where the provider has none, by now. */
  find(call: {
    readonly key: string;
    readonly signal: AbortSignal;
  }): Promise<ProviderAnswer | undefined>;
}

const chargeShape = z.object({ id: z.string(), status: z.enum(["succeeded", "declined"]) });
const listShape = z.object({ data: z.array(chargeShape) });

export function createProviderClient(baseUrl: string): ProviderClient {
  const base = new URL(baseUrl.endsWith("/") ? baseUrl : `${baseUrl}/`);
  return {
    charge: async (request, { key, signal }) => {
      const response = await fetch(new URL("charges", base), {
        method: "POST",
        headers: { "Content-Type": "application/json", "Idempotency-Key": key },
        body: JSON.stringify(request),
        signal,
      });
      const body: unknown = await response.json();
      if (response.status !== 200 && response.status !== 402)
        throw new Error(`The payment provider answered ${response.status}.`);
      return toAnswer(chargeShape.parse(body));
    },
    find: async ({ key, signal }) => {
      const address = new URL("charges", base);
      address.searchParams.set("key", key);
      const response = await fetch(address, { signal });
      const body: unknown = await response.json();
      if (response.status !== 200)
        throw new Error(`The payment provider answered ${response.status}.`);
      const [found] = listShape.parse(body).data;
      return found === undefined ? undefined : toAnswer(found);
    },
  };
}

function toAnswer({ id, status }: z.infer<typeof chargeShape>): ProviderAnswer {
  return { kind: status === "declined" ? "declined" : "charged", id };
}
