"use strict";

/**
 * Brings up Postgres and Redis once per run. jest applies its module mapping to tests only, so the one rule it
 * holds (a `.js` import names a `.ts` file) is added to Node's resolution here, for this process.
 */
const Module = require("node:module");

const resolveFilename = Module._resolveFilename;
Module._resolveFilename = function (request, parent, ...rest) {
  if (/^\.{1,2}\/.*\.js$/.test(request) && parent?.filename?.endsWith(".ts"))
    return resolveFilename.call(this, request.replace(/\.js$/, ".ts"), parent, ...rest);
  return resolveFilename.call(this, request, parent, ...rest);
};

module.exports = async () => {
  const { startSharedServers } = require("./servers.ts");
  await startSharedServers();
};
