import { express5Framework } from "./frameworks/express.js";
import { runMatrix } from "./run-matrix.js";

runMatrix(express5Framework);
