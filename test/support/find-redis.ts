/** Finds a Redis for tests: on PATH, else unpacked from the distribution's packages, else by Docker. */
import { runCommand, unpackDebian } from "./debian-package.js";
import { onPath } from "./find-postgres.js";

export type RedisProgram =
  | { kind: "binary"; path: string; libraryPath: string | undefined }
  | { kind: "docker"; image: string };

const nowhere =
  "The tests need a real Redis and found none. Any one of these will do: REDIS_URL naming a server that may be " +
  "flushed; redis-server or valkey-server on PATH; Debian or Ubuntu with a package mirror in reach (the package is " +
  "downloaded and unpacked into a cache folder, without installing it); a running Docker engine.";

const image = "redis:7-alpine";

const redisPackage = {
  name: "redis",
  packages: ["redis-server", "redis-tools"],
  program: "usr/bin/redis-server",
};

export function findRedis(): RedisProgram {
  const path = onPath("redis-server") ?? onPath("valkey-server");
  if (path !== undefined) return { kind: "binary", path, libraryPath: undefined };
  const unpacked = unpackDebian(redisPackage);
  if (unpacked !== undefined) return { kind: "binary", ...unpacked };
  if (onPath("docker") !== undefined && runCommand("docker", ["info"]).ok)
    return { kind: "docker", image };
  throw new Error(nowhere);
}
