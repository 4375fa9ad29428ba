/** How a command ends. */
import { shownText } from '../../contract/text.ts';

/** Documented in CONTRACT.md; scripts rely on them. */
export const EXIT = { done: 0, failed: 1, usage: 2, unreachable: 69, tryAgain: 75, badConfig: 78 } as const;

/** Thrown by a command: its message and hint are printed, and the process ends with its code. */
export class CliError extends Error {
  readonly exitCode: number;
  readonly hint: string;
  constructor(exitCode: number, message: string, hint = '') {
    super(message);
    this.name = 'CliError';
    this.exitCode = exitCode;
    this.hint = hint;
  }
}

/** Says on stderr what a command failed with; answers the exit code. */
export function printFailure(error: unknown): number {
  if (error instanceof CliError) {
    process.stderr.write(shownText(`stile-gate: ${error.message}\n${error.hint === '' ? '' : `${error.hint}\n`}`));
    return error.exitCode;
  }
  process.stderr.write(shownText(`stile-gate: ${(error as Error).stack ?? String(error)}\n`));
  return EXIT.failed;
}

/** Prints values as JSON (for programs) or as the given words (for people); what a terminal would obey is escaped. */
export function print(json: boolean | undefined, value: unknown, words: () => string): void {
  process.stdout.write(shownText(json === true ? `${JSON.stringify(value, null, 2)}\n` : `${words()}\n`));
}
