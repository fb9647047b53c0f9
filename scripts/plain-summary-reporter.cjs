"use strict";

/**
 * Prints one line, `N passed, N failed`, after jest's own summary, and fails a run in which nothing passed:
 * a run without tests proves nothing.
 */
class PlainSummaryReporter {
  #error;

  onRunComplete(_contexts, results) {
    // A file that could not be loaded has no failed test of its own, and still is a failure.
    const failed = results.numFailedTests + results.numRuntimeErrorTestSuites;
    if (results.numPassedTests === 0) this.#error = new Error("No test passed in this run.");
    // jest puts its summary behind every other reporter, and this line belongs behind that.
    process.once("exit", () => {
      process.stdout.write(`\n${results.numPassedTests} passed, ${failed} failed\n`);
    });
  }

  getLastError() {
    return this.#error;
  }
}

module.exports = PlainSummaryReporter;
