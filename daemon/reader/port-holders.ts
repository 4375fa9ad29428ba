/** Finds the other programs that hold a serial port open, from /proc/<pid>/fd. */
import { readdirSync, readFileSync, readlinkSync, realpathSync } from 'node:fs';
import { join } from 'node:path';

/** Processes looked at. At the bound: the rest is not looked at. */
const MAX_PROCESSES = 4_096;

export interface PortHolder {
  readonly pid: number;
  /** The program's name, such as `agetty` or `ModemManager`. */
  readonly name: string;
}

/**
 * Returns who else holds the port. Processes of other users are seen by root alone. Whoever made a pseudo-terminal holds both of its ends, and takes
 * nothing from the gate: it is left out. `proc`: for tests.
 */
export function portHolders(path: string, proc = '/proc'): readonly PortHolder[] {
  const device = realPath(path);
  const holders: PortHolder[] = [];
  const own = ownProcesses(proc);
  let left = MAX_PROCESSES;
  for (const pid of entries(proc)) {
    if (!/^\d+$/.test(pid)) continue;
    left -= 1;
    if (left < 0) break;
    if (own.has(Number(pid))) continue;
    const open = entries(join(proc, pid, 'fd')).map((fd) => target(join(proc, pid, 'fd', fd)));
    const made = device.startsWith('/dev/pts/') && open.some((file) => file === '/dev/ptmx' || file === '/dev/pts/ptmx');
    if (open.includes(device) && !made) holders.push({ pid: Number(pid), name: nameOf(join(proc, pid, 'comm')) });
  }
  return holders;
}

/** Returns this process and those that started it: a terminal or a test that holds the other end of a pseudo-terminal is no stranger. */
function ownProcesses(proc: string): ReadonlySet<number> {
  const own = new Set([process.pid]);
  for (let pid = process.pid; pid > 1; ) {
    // The name in brackets may hold anything; the parent is the second field after it.
    const parent = Number(/\) \S (\d+)/.exec(textOf(join(proc, String(pid), 'stat')))?.[1] ?? 0);
    if (parent <= 1 || own.has(parent)) break;
    own.add(parent);
    pid = parent;
  }
  return own;
}

function textOf(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}

/** Returns the folder's entries; none where it is gone or belongs to another user. */
function entries(folder: string): readonly string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

function target(link: string): string | null {
  try {
    return readlinkSync(link);
  } catch {
    // The process has closed it, or has ended.
    return null;
  }
}

function nameOf(file: string): string {
  try {
    return readFileSync(file, 'utf8').trim();
  } catch {
    return 'a program that has just ended';
  }
}

function realPath(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}
