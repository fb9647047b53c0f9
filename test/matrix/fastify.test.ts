import { fastifyFramework } from "./frameworks/fastify.js";
import { runMatrix } from "./run-matrix.js";

runMatrix(fastifyFramework);
