/** Ends a command: exit codes, the error that carries one, and output for people or programs. */
import { shownText } from '../../contract/text.ts';
import { ControlClientError, type ControlClientFault } from '../control/client.ts';

/** Exit codes, as CONTRACT.md documents them for scripts. */
export const EXIT = { done: 0, failed: 1, usage: 2, unreachable: 69, tryAgain: 75, badConfig: 78 } as const;

/** Ends a command: the process prints message and hint and exits with the code. */
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

const EXIT_OF_FAULT: Readonly<Record<ControlClientFault, number>> = {
  unreachable: EXIT.unreachable,
  not_allowed: EXIT.failed,
  timeout: EXIT.tryAgain,
  busy: EXIT.tryAgain,
  refused: EXIT.failed,
};

/** Returns the error of a call to the gate as the command line's; any other error unchanged. */
export const cliErrorOf = (error: unknown): unknown =>
  error instanceof ControlClientError ? new CliError(EXIT_OF_FAULT[error.kind], error.message, error.hint) : error;

/** Prints on stderr why a command failed. Returns the exit code. */
export function printFailure(error: unknown): number {
  if (error instanceof CliError) {
    process.stderr.write(shownText(`stile-gate: ${error.message}\n${error.hint === '' ? '' : `${error.hint}\n`}`));
    return error.exitCode;
  }
  process.stderr.write(shownText(`stile-gate: ${(error as Error).stack ?? String(error)}\n`));
  return EXIT.failed;
}

/** Prints a value as JSON (for programs) or as text (for people). Escapes control characters. */
export function print(json: boolean | undefined, value: unknown, text: () => string): void {
  process.stdout.write(shownText(json === true ? `${JSON.stringify(value, null, 2)}\n` : `${text()}\n`));
}
