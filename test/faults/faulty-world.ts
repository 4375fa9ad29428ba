/** A wall clock that is set and names that are not found, on order, for a process of the gate: faulty-world.c, compiled and preloaded. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { compiler } from '../disk/faulty-disk.ts';

const source = fileURLToPath(new URL('faulty-world.c', import.meta.url));

export interface FaultyWorld {
  /** Environment of a process that lives in this world. */
  readonly env: Record<string, string>;
  /** From now on. `clockS`: the wall clock is off by so many seconds. `names`: of hosts that end in .stile. */
  order(what: { readonly clockS?: number; readonly names?: 'lost' | 'found' }): void;
  remove(): void;
}

/** Throws where it does not compile. */
export function makeFaultyWorld(): FaultyWorld {
  const dir = mkdtempSync(join(tmpdir(), 'stile-world-'));
  const library = join(dir, 'faulty-world.so');
  const { status, stderr } = spawnSync(compiler ?? 'cc', ['-shared', '-fPIC', '-O2', '-Wall', '-Wextra', '-Werror', '-o', library, source, '-ldl'], {
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`faulty-world.c does not compile: ${stderr}`);
  const file = join(dir, 'order');
  let now = { clockS: 0, names: 'found' };
  const order: FaultyWorld['order'] = (what) => {
    now = { ...now, ...what };
    writeFileSync(`${file}.new`, `${now.clockS} ${now.names}\n`);
    renameSync(`${file}.new`, file);
  };
  order({});
  return { env: { LD_PRELOAD: library, FAULTY_WORLD_ORDER: file }, order, remove: () => rmSync(dir, { recursive: true }) };
}
