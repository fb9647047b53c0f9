"use strict";

module.exports = async () => {
  await globalThis.endSharedServers?.();
};
