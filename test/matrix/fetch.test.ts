import { fetchFramework } from "./frameworks/fetch.js";
import { runMatrix } from "./run-matrix.js";

runMatrix(fetchFramework);
