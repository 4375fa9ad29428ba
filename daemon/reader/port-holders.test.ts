import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
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
