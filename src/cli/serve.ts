/**
 * `oncekey serve`. In a file of its own so that the server's packages are loaded by this command alone.
 */
export { serve } from "../server/main.js";
