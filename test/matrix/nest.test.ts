import { nestFramework } from "./frameworks/nest.js";
import { runMatrix } from "./run-matrix.js";

runMatrix(nestFramework);
