/** The machine that `stile-cloud init` sets up: its programs, users and files. */
import { spawnSync } from 'node:child_process';
import { existsSync, lstatSync, mkdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { writeSafeFile } from '../../../runtime/safe-file.ts';

/** Longest run of one program, in ms; then it is killed, and counts as failed. */
const MAX_RUN_MS = 300_000;

export interface Ran {
  readonly status: number;
  readonly out: string;
  readonly err: string;
}

export interface Host {
  /** Returns where a path of the machine is; below another root in tests and images. */
  at(path: string): string;
  run(program: string, args: readonly string[], input?: string): Ran;
  has(program: string): boolean;
  exists(path: string): boolean;
  read(path: string): string | null;
  /** Returns the user's numbers, or null where there is no such user. */
  user(name: string): { readonly uid: number; readonly gid: number } | null;
  /** Writes a file of root's with this group, only where its content differs. Returns whether it was written. */
  put(path: string, content: string, mode: number, group: string): boolean;
  folder(path: string, mode: number, group: string): void;
  remove(path: string): void;
}

/** Returns the machine itself; `root` other than `/`: files go below it, programs are this machine's. */
export function createHost(root = '/'): Host {
  const at = (path: string) => (root === '/' ? path : join(root, path));
  const read = (path: string) => (existsSync(at(path)) ? readFileSync(at(path), 'utf8') : null);
  const user = (name: string) => {
    const found = new RegExp(`^${name}:[^:]*:(\\d+):(\\d+):`, 'm').exec(read('/etc/passwd') ?? '');
    return found === null ? null : { uid: Number(found[1]), gid: Number(found[2]) };
  };
  const group = (name: string): number => {
    const found = new RegExp(`^${name}:[^:]*:(\\d+):`, 'm').exec(read('/etc/group') ?? '');
    if (found === null) throw new Error(`there is no group ${name} on this machine`);
    return Number(found[1]);
  };
  return {
    at,
    run(program, args, input) {
      const { status, stdout, stderr, error } = spawnSync(program, [...args], {
        encoding: 'utf8',
        timeout: MAX_RUN_MS,
        ...(input === undefined ? {} : { input }),
      });
      return { status: status ?? 1, out: stdout ?? '', err: error === undefined ? (stderr ?? '') : error.message };
    },
    has: (program) => ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin'].some((folder) => existsSync(at(join(folder, program)))),
    exists: (path) => existsSync(at(path)),
    read,
    user,
    put(path, content, mode, owner) {
      const file = at(path);
      const gid = group(owner);
      const before = lstatSync(file, { throwIfNoEntry: false });
      if (before?.isFile() === true && readFileSync(file, 'utf8') === content && (before.mode & 0o777) === mode && before.gid === gid) return false;
      mkdirSync(dirname(file), { recursive: true });
      writeSafeFile(file, content, { mode, owner: { uid: 0, gid } });
      return true;
    },
    folder(path, mode, owner) {
      const place = at(path);
      mkdirSync(place, { recursive: true });
      if (!statSync(place).isDirectory()) throw new Error(`${path} is no folder`);
      const { status, err } = this.run('install', ['-d', '-o', 'root', '-g', String(group(owner)), '-m', mode.toString(8), place]);
      if (status !== 0) throw new Error(`${path}: ${err.trim()}`);
    },
    remove: (path) => rmSync(at(path), { recursive: true, force: true }),
  };
}

/** Runs a program that must succeed. Throws with what it said. */
export function must(ran: Ran, what: string): string {
  if (ran.status !== 0) throw new Error(`${what}: ${(ran.err.trim() || ran.out.trim()).split('\n').slice(-5).join('; ')}`);
  return ran.out;
}
