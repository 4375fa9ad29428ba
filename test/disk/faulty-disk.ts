/** A disk that stalls or fails on order, for a gate that runs as a process: faulty-disk.c, compiled and preloaded. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const source = fileURLToPath(new URL('faulty-disk.c', import.meta.url));

/** The machine's C compiler; undefined: it has none. */
export const compiler = ['cc', 'gcc', 'clang'].find((name) => spawnSync(name, ['--version']).status === 0);

export interface FaultyDisk {
  /** Environment of a process whose files below `folder` lie on this disk. */
  env(folder: string): Record<string, string>;
  /** From now on. `stall`: no sync returns until the next order; `eio`: syncs fail; `full`: there is no room for any write. */
  order(what: 'work' | 'stall' | 'eio' | 'full'): void;
  remove(): void;
}

/** Throws where it does not compile. */
export function makeFaultyDisk(): FaultyDisk {
  const dir = mkdtempSync(join(tmpdir(), 'stile-disk-'));
  const library = join(dir, 'faulty-disk.so');
  const { status, stderr } = spawnSync(compiler ?? 'cc', ['-shared', '-fPIC', '-O2', '-Wall', '-Wextra', '-Werror', '-o', library, source, '-ldl'], {
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`faulty-disk.c does not compile: ${stderr}`);
  const file = join(dir, 'order');
  return {
    env: (folder) => ({ LD_PRELOAD: library, FAULTY_DISK_FOLDER: folder, FAULTY_DISK_ORDER: file }),
    order(what) {
      // Renamed, so that nobody ever reads half an order.
      writeFileSync(`${file}.new`, what);
      renameSync(`${file}.new`, file);
    },
    remove: () => rmSync(dir, { recursive: true }),
  };
}
