import { honoFramework } from "./frameworks/fetch.js";
import { runMatrix } from "./run-matrix.js";

runMatrix(honoFramework);
