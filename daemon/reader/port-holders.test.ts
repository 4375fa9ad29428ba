import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { portHolders } from './port-holders.ts';

test('L4 names another program that has the port open, and not the gate itself', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'holders-'));
  const port = join(folder, 'port');
  writeFileSync(port, '');
  const other = spawn('sleep', ['60'], { stdio: ['ignore', 'ignore', 'ignore'] });
  expect(portHolders(port)).toEqual([]);
  other.kill();
  const holder = spawn('/bin/sh', ['-c', 'exec 3<"$0"; exec sleep 60', port], { stdio: 'ignore' });
  try {
    await expect.poll(() => portHolders(port).map(({ pid, name }) => [pid, name]), { timeout: 10_000 }).toEqual([[holder.pid, 'sleep']]);
  } finally {
    holder.kill();
    rmSync(folder, { recursive: true });
  }
});

test('L4 leaves out who made a pseudo-terminal, and names another program at the same one', () => {
  const proc = mkdtempSync(join(tmpdir(), 'holders-'));
  const process = (pid: string, name: string, files: readonly string[]) => {
    mkdirSync(join(proc, pid, 'fd'), { recursive: true });
    writeFileSync(join(proc, pid, 'comm'), `${name}\n`);
    for (const [fd, file] of files.entries()) symlinkSync(file, join(proc, pid, 'fd', String(fd)));
  };
  process('71', 'simulator', ['/dev/ptmx', '/dev/pts/9999']);
  process('72', 'agetty', ['/dev/pts/9999']);
  process('73', 'terminal', ['/dev/ptmx', '/dev/ttyS9']);
  try {
    expect(portHolders('/dev/pts/9999', proc)).toEqual([{ pid: 72, name: 'agetty' }]);
    expect(portHolders('/dev/ttyS9', proc)).toEqual([{ pid: 73, name: 'terminal' }]);
  } finally {
    rmSync(proc, { recursive: true });
  }
});
