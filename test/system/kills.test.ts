/**
 * Struck in mid-pulse. The process: killed, hung and then killed by the watchdog, or stopped, with the unit's own stop step run
 * afterwards as systemd does (systemd/stile-gate.service). Or its disk: every sync fails, or there is no room for any write, at the
 * moment when something must be written; the process lives on and ends its pulse itself. The wires are the software lane's: like a
 * real wire they keep their level when the process dies.
 *
 *   make test            15 rounds, and a stop step that does nothing is found
 *   make prove-release   300, and a watchdog that comes too late is found as well
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { DEFAULT_LANE_CONFIG } from '../../daemon/lane/config.ts';
import { compiler } from '../disk/faulty-disk.ts';
import { DISK_WAYS, type Held, openStruckLane, type StruckLane, WATCHDOG_MS, WAYS, type Way } from './kill-fixture.ts';

const PROVING = process.env['STILE_PROVE'] === '1';
const ROUNDS = PROVING ? 300 : 15;
/** Gates at work at once: most of a round is waiting, for a watchdog or for a disk that is tried again. */
const LANES = 4;
const ROUND_MS = 30_000;
const WORDS: Readonly<Record<Way, string>> = {
  killed: 'kill -9',
  hung: 'SIGSTOP, then the watchdog',
  stopped: 'stop',
  eio: 'every sync fails with EIO',
  full: 'the disk is full',
};
const { pulseMs } = DEFAULT_LANE_CONFIG;
/** LANE.md: process killed, release safe within 1 s; process hung, 5 s. */
const BOUND_MS: Readonly<Record<'killed' | 'hung', number>> = { killed: 1_000, hung: 5_000 };
/** A process that lives, or is told to stop, ends its pulse by itself, in its time. */
const PULSE_OFF_AT_WORST_MS = 400;
const source = fileURLToPath(new URL('../../deploy/stop-step/stile-release.c', import.meta.url));
const longest = (list: readonly number[]) => Math.max(...list);

/** Throws where one of them was held for too long, or where too few blows met the lane open to prove anything. */
function judge(way: Way, of: readonly Held[]): void {
  const heldMs = longest(of.map((one) => one.heldMs));
  const afterMs = longest(of.map((one) => one.afterBlowMs));
  if (way === 'killed' || way === 'hung') expect(afterMs).toBeLessThanOrEqual(BOUND_MS[way]);
  else expect(heldMs).toBeLessThanOrEqual(pulseMs + PULSE_OFF_AT_WORST_MS);
  const open = of.filter((one) => one.leftOpen).length;
  if (way === 'stopped') expect(open).toBe(0);
  else expect(open).toBeGreaterThan(of.length / 2);
  if ((DISK_WAYS as readonly Way[]).includes(way)) expect(of.filter((one) => one.metInPulse).length).toBeGreaterThan(of.length / 2);
}

function figure(way: Way, of: readonly Held[]): void {
  const count = (fits: (one: Held) => boolean) => of.filter(fits).length;
  const met = (DISK_WAYS as readonly Way[]).includes(way) ? `the gate met it within the pulse ${count((one) => one.metInPulse)} times` : '';
  const open = `wire left open ${count((one) => one.leftOpen)} times`;
  process.stdout.write(
    `figure: ${WORDS[way]}, ${of.length} times, ${met || open}: longest hold ${longest(of.map((one) => one.heldMs)).toFixed(0)} ms, longest from the blow ${longest(of.map((one) => one.afterBlowMs)).toFixed(0)} ms\n`,
  );
}

if (compiler === undefined) {
  process.stderr.write('not shown: the stop step is compiled from C, and this machine has no C compiler\n');
  test.skip('ended in mid-pulse');
} else
  describe('ended in mid-pulse', () => {
    const folder = mkdtempSync(join(tmpdir(), 'stile-kills-'));
    const stopStep = join(folder, 'stile-release');
    const lanes: StruckLane[] = [];
    beforeAll(async () => {
      const { status, stderr } = spawnSync(compiler ?? 'cc', ['-static', '-O2', '-o', stopStep, source], { encoding: 'utf8' });
      if (status !== 0) throw new Error(`stile-release.c does not compile: ${stderr}`);
      for (let number = 0; number < LANES; number++) lanes.push(await openStruckLane({ stopStep, tickets: ROUNDS }));
    });
    afterAll(async () => {
      for (const lane of lanes) await lane.close();
      rmSync(folder, { recursive: true });
    });

    test(
      `${ROUNDS} times: the release is never stuck, and each release has its row and its outcome`,
      async () => {
        const held: Held[] = [];
        const wayOf = (number: number) => WAYS[number % WAYS.length] as Way;
        const shown = lanes.map((): number[] => []);
        let next = 0;
        await Promise.all(
          lanes.map(async (lane, which) => {
            for (let number = next++; number < ROUNDS; number = next++) {
              shown[which]?.push(number);
              held.push(await lane.round(number, wayOf(number)));
            }
          }),
        );
        const byWay = WAYS.map((way) => [way, held.filter((one) => one.way === way)] as const);
        for (const [way, of] of byWay) figure(way, of);
        process.stdout.write(
          `figure: ${held.length} blows in mid-pulse, ${LANES} gates at once: none stuck, longest hold ${longest(held.map((one) => one.heldMs)).toFixed(0)} ms\n`,
        );
        for (const [way, of] of byWay) judge(way, of);
        for (const [which, lane] of lanes.entries()) {
          const codes = shown[which] ?? [];
          for (const [index, mine] of (await lane.recordOf(codes)).entries()) {
            const way = wayOf(codes[index] as number);
            expect(mine, `ticket ${codes[index]}, ${way}`).toEqual([
              'grant',
              expect.stringMatching(way === 'killed' || way === 'hung' ? /^(unknown|passed)$/ : /^(passed|returned)$/),
            ]);
          }
        }
      },
      ROUNDS * ROUND_MS,
    );

    test('planted: a stop step that does nothing is found', async () => {
      const lane = await openStruckLane({ stopStep: 'true', tickets: 1 });
      try {
        await expect(lane.round(0, 'killed')).rejects.toThrow(/not in the defined state after the stop step: .*release_in is not 0/);
        process.stdout.write('figure: planted: without the stop step the wire was found open after kill -9\n');
      } finally {
        await lane.close();
      }
    });

    if (PROVING)
      test('planted: a watchdog that comes too late is found', async () => {
        const lane = await openStruckLane({ stopStep, tickets: 1, watchdogMs: 2 * WATCHDOG_MS });
        try {
          const held = await lane.round(0, 'hung');
          expect(() => judge('hung', [held])).toThrow(/less than or equal to 5000/);
          process.stdout.write(`figure: planted: a watchdog twice as slow was found, held ${held.heldMs.toFixed(0)} ms\n`);
        } finally {
          await lane.close();
        }
      }, 60_000);
  });
