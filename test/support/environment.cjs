"use strict";

const { TestEnvironment } = require("jest-environment-node");

/**
 * Ends what a test file started after all of its hooks, also after a time-out. An `afterAll` of ours would not do:
 * jest runs those in the order of their definition, so it would come before the file's own.
 */
class ServersEnvironment extends TestEnvironment {
  async handleTestEvent(event) {
    if (event.name === "run_finish") await this.global.endEverything?.();
  }
}

module.exports = ServersEnvironment;
