/** The disk whose n-th operation fails (nth-fault.c): compiled once, preloaded into a process, and driven from inside it. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import koffi from 'koffi';

const source = fileURLToPath(new URL('nth-fault.c', import.meta.url));

/** Compiles it into `folder`; answers the library. Throws where it does not compile. */
export function compileShim(compiler: string, folder: string): string {
  const library = join(folder, 'nth-fault.so');
  const { status, stderr } = spawnSync(compiler, ['-shared', '-fPIC', '-O2', '-Wall', '-Wextra', '-Werror', '-o', library, source, '-ldl'], {
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`nth-fault.c does not compile: ${stderr}`);
  return library;
}

export const ERRORS = { EIO: 5, ENOSPC: 28 } as const;

export interface NthFault {
  /** From now on the `nth` operation below `folder` fails (0: none), and with `lasting` all after it. */
  arm(folder: string, nth: number, error: keyof typeof ERRORS, lasting: boolean): void;
  /** Operations since it was armed. */
  count(): number;
  /** Lists all operations of a run in which none was to fail: `<operation> <path below the folder>`, a rename's old path after a tab. */
  trace(): readonly string[];
  /** All is well again. Answers the operations since it was armed, how many failed, and the first of these. */
  disarm(): { readonly operations: number; readonly failed: number; readonly what: string };
}

/** Inside a process that has it preloaded. Throws in any other. */
export function nthFault(): NthFault {
  const library = koffi.load(null);
  const arm = library.func('void nth_fault_arm(const char *, long, int, int)');
  const disarm = library.func('long nth_fault_disarm()');
  const failed = library.func('long nth_fault_failed()');
  const count = library.func('long nth_fault_count()');
  const trace = library.func('const char *nth_fault_trace()');
  const last = library.func('const char *nth_fault_last()');
  return {
    arm: (folder, nth, error, lasting) => void arm(folder, nth, ERRORS[error], lasting ? 1 : 0),
    count: () => Number(count()),
    trace: () =>
      String(trace())
        .split('\n')
        .filter((line) => line !== ''),
    disarm: () => ({ operations: Number(disarm()), failed: Number(failed()), what: String(last()) }),
  };
}
