/**
 * The board for real: Debian's kernel with a simulated Pi header in QEMU, the bundled gate under systemd with its own unit, a
 * serial line for a reader, Mosquitto; both drivers. What the lines do is seen from the kernel's side (test/kernel).
 *
 * Skipped, by name and loudly, where QEMU or Debian's packages cannot be had. KERNEL=full runs the board's contract on the real
 * kernel and KILLS (default 30) ends in mid-pulse for each driver as well.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { CHECKOUT_LAUNCHER, codeOf, createTestGate } from '../../daemon/gate-fixture.ts';
import { kernelVersion, startGuest } from './guest.ts';

const ROOT = join(import.meta.dirname, '../..');
const FULL = process.env['KERNEL'] === 'full';
const KILLS = FULL ? (process.env['KILLS'] ?? '30') : '0';
/** What a quiet machine does in a minute takes an emulated processor among other work many; this only ends what hangs. */
const BOUND_MS = FULL ? 3_600_000 : 900_000;
const TICKETS = 400;

/** Null, or why it cannot be done here. */
function missing(): string | null {
  const fetched = spawnSync(join(ROOT, 'test/kernel/fetch'), { encoding: 'utf8', stdio: ['ignore', 'ignore', 'pipe'] });
  if (fetched.status === 69) return fetched.stderr.trim().split('\n').at(-1) ?? 'it cannot be had';
  if (fetched.status !== 0) throw new Error(`test/kernel/fetch ended with ${fetched.status}: ${fetched.stderr}`);
  const compilers = ['gcc', 'g++'].filter((name) => spawnSync(name, ['--version']).status !== 0);
  return compilers.length === 0 ? null : `the bundle needs a compiler (${compilers.join(', ')})`;
}

const why = missing();
if (why !== null) {
  process.stderr.write(`SKIPPED: the gate on a real kernel — ${why}\n`);
  test.skip('the gate on a real kernel');
} else
  test(
    'the gate on a real kernel',
    async () => {
      const folder = mkdtempSync(join(tmpdir(), 'stile-kernel-'));
      const tickets = await createTestGate(CHECKOUT_LAUNCHER, TICKETS);
      try {
        execFileSync(process.execPath, [join(ROOT, 'deploy/bundle.ts'), 'x64'], { stdio: 'ignore' });
        const bundle = join(folder, 'bundle');
        cpSync(join(ROOT, 'dist/gate-x64'), bundle, { recursive: true });
        const proofs: string[] = [];
        const said: string[] = [];
        const began = performance.now();
        const guest = startGuest({
          folder,
          bundle,
          store: join(tickets.dir, 'store'),
          keys: join(tickets.dir, 'keys.json'),
          codeOf,
          settings: { PROVE: FULL ? 'full' : 'short', KILLS },
          heard(line) {
            said.push(line);
            if (!line.startsWith('PROOF ')) return;
            proofs.push(line.slice('PROOF '.length));
            process.stdout.write(`${((performance.now() - began) / 1_000).toFixed(0).padStart(4)} s  ${line.slice('PROOF '.length)}\n`);
          },
        });
        await guest.off(BOUND_MS);
        expect(
          proofs.filter((line) => line.includes(': FAILED ')),
          said.filter((line) => line.startsWith('JOURNAL ')).join('\n'),
        ).toEqual([]);
        // Whatever became of it: the machine came to its end, on the kernel that was asked for, with both drivers.
        expect(said).toContain('DONE');
        expect(proofs[0]).toContain(kernelVersion());
        for (const driver of ['onoff', 'cdev']) expect(proofs.filter((line) => line.startsWith(`${driver}: `)).length).toBeGreaterThanOrEqual(9);
      } finally {
        tickets.remove();
        rmSync(folder, { recursive: true, force: true });
      }
    },
    BOUND_MS + 120_000,
  );
