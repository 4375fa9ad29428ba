/**
 * The board for real: Debian's kernel with a simulated Pi header in QEMU, the bundled gate under systemd with its own unit, a
 * serial line for a reader, Mosquitto. What the lines do is seen from the kernel's side (test/kernel/inside.ts).
 *
 *   make test                        onoff: lane, lamps, passage, button, fire, and the defined state after kill -9, hang and stop
 *   KERNEL=full make prove-kernel    both drivers, the board's contract on each, and KILLS (15) ends in mid-pulse on each
 *   KERNEL=ends make prove-kernel    KILLS (30) ends in mid-pulse, and what planted shows
 *   KERNEL=planted make prove-kernel   without stop step, without watchdog: the release must be seen to stay driven
 *
 * The machine's time is counted in its own instructions (guest.ts): its bounds hold however busy this machine is, and how much
 * slower than this machine it was is said at the end. Skipped, by name and loudly, where QEMU or Debian's packages cannot be had.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { CHECKOUT_LAUNCHER, codeOf, createTestGate } from '../../testkit/gate.ts';
import { kernelVersion, startGuest } from './guest.ts';

const ROOT = join(import.meta.dirname, '../..');
const PROVE = process.env['KERNEL'] ?? 'short';
const KILLS = PROVE === 'short' ? '0' : (process.env['KILLS'] ?? (PROVE === 'full' ? '15' : '30'));
/** What a quiet machine does in a minute takes an emulated processor among other work many; this only ends what hangs. */
const BOUND_MS = PROVE === 'short' ? 1_200_000 : 7_200_000;
const TICKETS = 400;

/** Null, or why it cannot be done here. */
function missing(): string | null {
  const fetched = spawnSync(join(ROOT, 'test/kernel/fetch'), { encoding: 'utf8', stdio: ['ignore', 'ignore', 'pipe'] });
  if (fetched.status === 69) return fetched.stderr.trim().split('\n').at(-1) ?? 'it cannot be had';
  if (fetched.status !== 0) throw new Error(`test/kernel/fetch ended with ${fetched.status}: ${fetched.stderr}`);
  const compilers = ['gcc', 'g++'].filter((name) => spawnSync(name, ['--version']).status !== 0);
  return compilers.length === 0 ? null : `the bundle needs a compiler (${compilers.join(', ')})`;
}

/** A run that was killed leaves some 500 MB behind. */
function removeLeftOvers(): void {
  const before = Date.now() - 2 * BOUND_MS;
  for (const name of readdirSync(join(ROOT, '.tools/kernel')).filter((one) => one.startsWith('run-'))) {
    const folder = join(ROOT, '.tools/kernel', name);
    if (statSync(folder).mtimeMs < before) rmSync(folder, { recursive: true, force: true });
  }
}

const why = missing();
if (why !== null) {
  process.stderr.write(`SKIPPED: the gate on a real kernel — ${why}\nnot shown: the gate on a real kernel: ${why}\n`);
  test.skip('the gate on a real kernel');
} else
  test(
    'the gate on a real kernel',
    async () => {
      removeLeftOvers();
      // Beside what was fetched: its files are linked, not copied.
      const folder = mkdtempSync(join(ROOT, '.tools/kernel/run-'));
      const tickets = await createTestGate(CHECKOUT_LAUNCHER, TICKETS);
      try {
        execFileSync(process.execPath, [join(ROOT, 'deploy/bundle.ts'), 'gate', 'x64', folder, '--no-archive', '--no-database'], { stdio: 'ignore' });
        const proofs: string[] = [];
        const said: string[] = [];
        const times: { readonly guestS: number; readonly hostS: number; readonly cpuS: number }[] = [];
        const began = performance.now();
        const guest = startGuest({
          folder,
          bundle: join(folder, 'gate-x64'),
          store: join(tickets.dir, 'store'),
          keys: join(tickets.dir, 'keys.json'),
          codes: Array.from({ length: TICKETS }, (_, number) => codeOf(number)),
          settings: { PROVE, KILLS },
          heard(line) {
            said.push(line);
            const now = performance.now();
            if (line.startsWith('TIME ')) times.push({ guestS: Number(line.slice('TIME '.length)), hostS: (now - began) / 1_000, cpuS: guest.cpuS() });
            if (line.startsWith('PROOF ')) proofs.push(line.slice('PROOF '.length));
            if (/^(PROOF|END|TIME) /.test(line)) process.stdout.write(`${((now - began) / 1_000).toFixed(0).padStart(4)} s  ${line}\n`);
          },
        });
        await guest.off(BOUND_MS);
        expect(
          proofs.filter((line) => line.includes(': FAILED ')),
          said.filter((line) => line.startsWith('JOURNAL ')).join('\n'),
        ).toEqual([]);
        // Whatever became of it: the machine came to its end, on the kernel that was asked for, with every proof of this form.
        expect(said).toContain('DONE');
        expect(proofs[0]).toContain(kernelVersion());
        for (const driver of PROVE === 'full' ? ['onoff', 'cdev'] : ['onoff'])
          expect(proofs.filter((line) => line.startsWith(`${driver}: `)).length).toBe({ short: 9, full: 11, ends: 3, planted: 2 }[PROVE]);
        const [from, to] = times;
        const guestS = (to?.guestS ?? 0) - (from?.guestS ?? 0);
        process.stdout.write(
          `figure: the kernel's time is its own: ${guestS.toFixed(0)} s of it took ${((to?.hostS ?? 0) - (from?.hostS ?? 0)).toFixed(0)} s here; boot and all took ${to?.hostS.toFixed(0)} s, ${to?.cpuS.toFixed(0)} s of them a processor's\n`,
        );
        for (const line of proofs.filter((one) => / (ends )?in mid-pulse: ok /.test(one)))
          process.stdout.write(`figure: under systemd, ${line.replace(': ok ', ': ')}\n`);
      } finally {
        tickets.remove();
        rmSync(folder, { recursive: true, force: true });
      }
    },
    BOUND_MS + 120_000,
  );
