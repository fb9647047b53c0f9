import { spawnSync } from "node:child_process";

test("the generated module holds the SQL and Lua files as they are", () => {
  const { status, stderr } = spawnSync(process.execPath, ["scripts/embed.mjs", "--check"], {
    encoding: "utf8",
  });
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
});
