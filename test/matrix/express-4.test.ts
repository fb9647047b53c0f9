import { express4Framework } from "./frameworks/express.js";
import { runMatrix } from "./run-matrix.js";

runMatrix(express4Framework);
