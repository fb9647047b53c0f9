import { redisAnswers, type RedisServer, startRedis } from "./redis-server.js";
import { useDatabase } from "./databases.js";
import { startPostgres } from "./postgres-server.js";

// A server that a file leaves running is still there in the file's own last hooks, whatever their order.
let redis: RedisServer;

beforeAll(async () => {
  redis = await startRedis();
});

afterAll(async () => {
  if (!(await redisAnswers(redis.port))) throw new Error("Redis was ended before this hook.");
});

describe("a database on a private server", () => {
  let serverUrl = "";
  beforeAll(async () => {
    serverUrl = (await startPostgres()).url;
  });
  const database = useDatabase(() => ({ serverUrl }));

  test("is made there", async () => {
    expect(new URL(database.url).port).toBe(new URL(serverUrl).port);
    expect((await database.pool.query("select 1 as one")).rows).toEqual([{ one: 1 }]);
  });
});
