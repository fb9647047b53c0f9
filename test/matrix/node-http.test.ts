import { nodeHttpFramework } from "./frameworks/node-http.js";
import { runMatrix } from "./run-matrix.js";

runMatrix(nodeHttpFramework);
