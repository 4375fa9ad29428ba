import { existsSync } from 'node:fs';

/** util-linux, on every Debian. */
const SETPRIV = '/usr/bin/setpriv';

/**
 * Returns a command whose process ends when this one does, however this one ends: SIGKILL runs no handler, and a gate that is left
 * behind would hold its reader and its store. The kernel sends the signal (prctl PR_SET_PDEATHSIG). Where setpriv is
 * missing the command comes back as it is.
 */
export function withParentDeathSignal(command: string, args: readonly string[]): { readonly command: string; readonly args: readonly string[] } {
  return existsSync(SETPRIV) ? { command: SETPRIV, args: ['--pdeathsig', 'KILL', '--', command, ...args] } : { command, args };
}
