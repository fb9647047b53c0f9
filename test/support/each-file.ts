import { endEverything } from "./processes.js";

// Registered before any test file's own hooks, hence runs after all of them: also after a time-out.
afterAll(endEverything, 30_000);
