import { connectFramework } from "./frameworks/express.js";
import { runMatrix } from "./run-matrix.js";

runMatrix(connectFramework);
