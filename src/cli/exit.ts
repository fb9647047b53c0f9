/** The exit codes of every command, and the errors that stand for them. */
export const exitCodes = { ok: 0, failed: 1, usage: 2, notFound: 3, foundProblem: 4 } as const;

/** Ends a command with a message and a code; no stack, since it is the operator's to mend and not ours. */
export class CommandError extends Error {
  override readonly name = "CommandError";

  constructor(
    readonly exitCode: (typeof exitCodes)["failed" | "usage" | "notFound"],
    message: string,
  ) {
    super(message);
  }
}

export function usageError(message: string): CommandError {
  return new CommandError(exitCodes.usage, message);
}
