/** The payment provider as a process of its own, to be slow, to fail and to be killed. */
import { startProvider } from "../../../src/server/provider.js";

const { PROVIDER_LEDGER = "", PROVIDER_PORT = "0", PROVIDER_HONOURS_KEYS } = process.env;
const provider = await startProvider({
  ledgerFile: PROVIDER_LEDGER,
  port: Number(PROVIDER_PORT),
  honoursKeys: PROVIDER_HONOURS_KEYS !== "false",
});
console.log(`ready ${provider.port} `);
