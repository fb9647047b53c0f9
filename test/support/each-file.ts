import { endEverything } from "./processes.js";

// Called by the test environment, which lives outside the file's own modules.
Object.assign(globalThis, { endEverything });
