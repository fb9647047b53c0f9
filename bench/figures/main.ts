/** `npm run bench:figures`: writes the results into the docs; see figures.ts. */
import { writeFigures } from "./figures.js";

writeFigures();
