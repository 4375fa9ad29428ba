/**
 * The disk never holds the lane: the gate as a process, on a disk that stalls for real, fails, or is full.
 *
 * What the lane did and when is read from its wires, stamped by the gate's own process.
 */
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { DEFAULT_LANE_CONFIG } from '../../daemon/lane/config.ts';
import { codeOf, createTestGate, type TestGate, until } from '../../testkit/gate.ts';
import { compiler, type FaultyDisk, makeFaultyDisk } from '../disk/faulty-disk.ts';
import { boottimeMs, type Change, type Wires, watchWires } from '../disk/lane-recorder.ts';

const STALL_MS = 5_000;
const { pulseMs, repeatMs } = DEFAULT_LANE_CONFIG;
/** A pulse's end may be off by so much. */
const PULSE_OFF_MS = 20;
/** Of a single pulse, on a machine whose processors have other work: still nothing like a stall. */
const PULSE_OFF_AT_WORST_MS = 400;
/** Fire counts once it has lasted fire_confirm_ms (100). */
const FIRE_MS = 100 + 50;
/** More than there is room for on the small disk. */
const TICKETS = 60;
/** From the code until the guest is told no (LANE.md). */
const REFUSED_MS = 3_000;

interface Row {
  readonly seq: number;
  readonly kind: string;
  readonly reason?: string;
  readonly ticket_id?: string;
  readonly outcome?: string;
  readonly what?: string;
  readonly of?: readonly [number, number];
}

let at: TestGate;
let wires: Wires;

const rows = async (): Promise<readonly Row[]> => (await at.rows()).map(({ entry }) => entry as unknown as Row);
const alerts = async () => (await at.status()).alerts.map(({ id }) => id);
const figures = (text: string): void => void process.stdout.write(`  ${text}\n`);
const ms = (list: readonly number[]): string => list.map((one) => one.toFixed(1)).join(', ');
const since = (sinceMs: number, wire: string, active?: boolean): Change[] =>
  wires.changes.filter((change) => change.wire === wire && change.atMs >= sinceMs && (active === undefined || change.active === active));
const middle = (list: readonly number[]): number => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)] as number;

async function begin(env: Record<string, string> = {}): Promise<void> {
  await at.start(env);
  wires = await watchWires(join(at.dir, 'sim.sock'));
}

/** A guest holds this code before the reader: when. */
function show(code: number): number {
  const shownMs = boottimeMs();
  at.show(codeOf(code));
  return shownMs;
}

/** The staff button, pressed and let go: for 60 ms at least as the gate sees it, however late it sees it. */
async function press(): Promise<void> {
  await wires.next('button', true, wires.send({ input: 'button', active: true }));
  await sleep(60);
  wires.send({ input: 'button', active: false });
}

/** Returns the difference between the pulse that began here and its configured length. */
async function pulseOff(on: Change): Promise<number> {
  return (await wires.next('release_in', false, on.atMs)).atMs - on.atMs - pulseMs;
}

/** Everybody who was let through has a row, and every row of a grant let somebody through or was returned. */
async function everyReleaseHasItsRow(releases: number): Promise<void> {
  const all = await rows();
  const openings = all.filter(({ kind }) => kind === 'grant' || kind === 'override');
  const returned = all.filter(({ kind, outcome }) => kind === 'passage' && outcome === 'returned').length;
  expect(openings.length - returned).toBe(releases);
}

async function nextMayCome(): Promise<void> {
  await until(at.status, (now) => now.signals.in === 'ready');
}

beforeEach(async () => {
  at = await createTestGate(undefined, TICKETS);
});
afterEach(async () => {
  wires?.close();
  await at.killAll();
});

if (compiler === undefined) test.skip('a disk that stalls or fails');
else
  describe('a disk that stalls or fails', () => {
    let disk: FaultyDisk;
    beforeAll(() => {
      disk = makeFaultyDisk();
    });
    afterAll(() => disk.remove());
    beforeEach(async () => {
      disk.order('work');
      await begin(disk.env(join(at.dir, 'store')));
    });
    afterEach(() => {
      disk.order('work');
      at.remove();
    });

    test('a commit that takes 5 s: the pulse ends, the next guest waits and is refused, and what is committed after that is returned', async () => {
      show(0);
      const first = await wires.next('release_in', true, 0);
      disk.order('stall');
      const stalledMs = boottimeMs();
      const off = await pulseOff(first);
      expect(Math.abs(off)).toBeLessThanOrEqual(PULSE_OFF_AT_WORST_MS);
      await wires.next('passage_in', false, stalledMs);
      await wires.next('amber_in', true, stalledMs);

      const shownMs = show(1);
      const red = await wires.next('red_in', true, shownMs);
      expect(red.atMs - shownMs).toBeLessThanOrEqual(REFUSED_MS);
      // "Wait" is amber blinking.
      const blinks = since(shownMs, 'amber_in', false).filter(({ atMs }) => atMs < red.atMs).length;
      expect(blinks).toBeGreaterThanOrEqual(3);
      await until(alerts, (now) => now.includes('disk'));
      await sleep(Math.max(0, stalledMs + STALL_MS - boottimeMs()));
      expect(since(stalledMs, 'release_in', true)).toEqual([]);

      disk.order('work');
      const mine = async () => (await rows()).filter(({ ticket_id }) => ticket_id === 't-1');
      const [grant, back] = await until(mine, (found) => found.length === 2);
      expect([grant?.kind, back?.kind, back?.outcome]).toEqual(['grant', 'passage', 'returned']);
      expect(back?.of?.[1]).toBe(grant?.seq);
      await until(rows, (all) => all.some(({ kind, reason }) => kind === 'refusal' && reason === 'error'));
      await until(alerts, (now) => !now.includes('disk'));
      // The lane told the guest no: it stayed shut, and the ticket is as it was.
      expect(since(stalledMs, 'release_in', true)).toEqual([]);
      await sleep(Math.max(0, red.atMs + repeatMs + 200 - boottimeMs()));
      await nextMayCome();
      const againMs = show(1);
      await wires.next('release_in', true, againMs);
      await until(rows, (all) => all.filter(({ outcome }) => outcome === 'passed').length === 2);
      await everyReleaseHasItsRow(2);
      figures(`stalled ${STALL_MS} ms: pulse off by ${ms([off])} ms, refused ${ms([red.atMs - shownMs])} ms after the code, ${blinks} blinks`);
    });

    test('while commits stall the staff button works, each pulse ends in its time, and the fire input is obeyed', async () => {
      wires.send({ walk: { delay_ms: 20, rotate_ms: 60 } });
      const healthy: number[] = [];
      for (let round = 0; round < 5; round++) {
        const fromMs = boottimeMs();
        await press();
        healthy.push(await pulseOff(await wires.next('release_in', true, fromMs)));
        await sleep(250);
      }
      disk.order('stall');
      const stalledMs = boottimeMs();
      const stalled: number[] = [];
      while (boottimeMs() < stalledMs + STALL_MS) {
        const fromMs = boottimeMs();
        await press();
        stalled.push(await pulseOff(await wires.next('release_in', true, fromMs)));
        await sleep(250);
      }
      // A code is on its way as well, and waits for the disk.
      show(2);
      await wires.next('amber_in', false, boottimeMs());
      const sentMs = wires.send({ input: 'fire', active: true });
      const open = await wires.next('release_in', true, sentMs);
      const seen = since(sentMs, 'fire', true)[0] as Change;
      expect(open.atMs - seen.atMs).toBeLessThanOrEqual(FIRE_MS);
      expect(existsSync(join(at.dir, 'store', 'fire-latched'))).toBe(false);
      figures(
        `pulse off by ${ms(healthy)} ms with a working disk, by ${ms(stalled)} ms with a stalled one; fire obeyed in ${ms([open.atMs - seen.atMs])} ms (${ms([open.atMs - sentMs])} from the sender)`,
      );
      expect(stalled.length).toBeGreaterThanOrEqual(6);
      // Beside other work on this machine the wires' own times shift; the working disk's pulses of the same minute say by how much.
      expect(Math.abs(middle(stalled))).toBeLessThanOrEqual(PULSE_OFF_MS + Math.abs(middle(healthy)));
      expect(Math.max(...stalled.map(Math.abs))).toBeLessThanOrEqual(PULSE_OFF_AT_WORST_MS);

      disk.order('work');
      await until(
        () => existsSync(join(at.dir, 'store', 'fire-latched')),
        (there) => there,
      );
      const presses = healthy.length + stalled.length;
      const all = await until(rows, (found) => found.filter(({ kind, outcome }) => kind === 'passage' && outcome === 'passed').length === presses);
      expect(all.filter(({ kind }) => kind === 'override')).toHaveLength(presses);
      // The guest who waited when fire broke out: given up, so returned where it was committed.
      const guest = all.filter(({ ticket_id }) => ticket_id === 't-2');
      expect(guest.map(({ kind, outcome }) => outcome ?? kind)).toEqual(['grant', 'returned']);
      wires.send({ input: 'fire', active: false });
      await until(at.status, (now) => !now.fire.asserted);
      expect(await at.cli('reset-emergency', '--reason', 'all clear', '--actor', 'anna-7')).toMatchObject({ code: 0 });
      await nextMayCome();
    });

    test('a disk that reports errors: refused at once, alert disk, and it heals by itself', async () => {
      disk.order('eio');
      const shownMs = show(3);
      const red = await wires.next('red_in', true, shownMs);
      expect(red.atMs - shownMs).toBeLessThanOrEqual(REFUSED_MS);
      await until(alerts, (now) => now.includes('disk'));
      expect(since(0, 'release_in', true)).toEqual([]);
      disk.order('work');
      await until(alerts, (now) => !now.includes('disk'));
      await sleep(Math.max(0, red.atMs + repeatMs + 200 - boottimeMs()));
      await nextMayCome();
      const againMs = show(3);
      await wires.next('release_in', true, againMs);
      const all = await until(rows, (found) => found.some(({ outcome }) => outcome === 'passed'));
      expect(all.filter(({ kind }) => kind === 'grant').map(({ ticket_id }) => ticket_id)).toEqual(['t-3']);
      expect(all.filter(({ kind }) => kind === 'refusal').map(({ reason }) => reason)).toEqual(['error']);
      expect(all.some(({ kind, what }) => kind === 'fault' && what === 'disk')).toBe(true);
      expect(await at.cli('ledger', 'verify')).toMatchObject({ code: 0 });
      await everyReleaseHasItsRow(1);
      figures(`EIO: refused ${ms([red.atMs - shownMs])} ms after the code`);
    });
  });

/** A small file system of its own for the store; false: this machine does not let us. */
function mountSmall(folder: string): boolean {
  const quarantined = `${folder}-aside`;
  cpSync(folder, quarantined, { recursive: true });
  if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'stile-test', folder]).status !== 0) return false;
  cpSync(quarantined, folder, { recursive: true });
  return true;
}
const mayMount = (() => {
  const probe = join(process.env['TMPDIR'] ?? '/tmp', `stile-mount-${process.pid}`);
  mkdirSync(probe);
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'stile-test', probe]).status === 0;
  if (mounted) spawnSync('umount', [probe]);
  rmSync(probe, { recursive: true });
  return mounted;
})();

if (!mayMount) test.skip('a disk that is full');
else
  describe('a disk that is full', () => {
    afterEach(async () => {
      await at.killAll();
      spawnSync('umount', [join(at.dir, 'store')]);
      at.remove();
    });

    test('nobody is admitted, the alert says so, and with room again the gate goes on by itself', async () => {
      const store = join(at.dir, 'store');
      expect(mountSmall(store)).toBe(true);
      // Half of it is taken at once, so that the log's room is small and there is something to give back.
      const ballast = join(store, 'ballast');
      spawnSync('dd', ['if=/dev/zero', `of=${ballast}`, 'bs=4k', 'count=128'], { stdio: 'ignore' });
      await begin();
      show(4);
      await wires.next('release_in', true, 0);
      await until(rows, (all) => all.some(({ outcome }) => outcome === 'passed'));
      spawnSync('dd', ['if=/dev/zero', `of=${ballast}-more`, 'bs=4k'], { stdio: 'ignore' });
      // What the log has room for already may still be written: guests come until it is full, for a guest's row or for a passage's.
      let isRefused = false;
      let admitted = 1;
      for (let code = 5; code < TICKETS - 1 && !isRefused; code++) {
        const { signals } = await until(at.status, (now) => ['ready', 'disk'].includes(now.signals.in));
        const shownMs = show(code);
        const told = await Promise.race([
          wires.next('red_in', true, shownMs),
          wires.next('release_in', true, shownMs),
          ...(signals.in === 'disk' ? [sleep(1_500)] : []),
        ]);
        if (told === undefined || told.wire === 'red_in') isRefused = true;
        else admitted++;
      }
      expect(isRefused).toBe(true);
      await until(alerts, (now) => now.includes('disk'));
      expect((await at.status()).alerts.find(({ id }) => id === 'disk')?.message).toMatch(/the disk is full/);
      expect(since(0, 'release_in', true)).toHaveLength(admitted);
      rmSync(ballast);
      await until(alerts, (now) => !now.includes('disk'));
      await nextMayCome();
      const againMs = show(TICKETS - 1);
      await wires.next('release_in', true, againMs);
      await until(rows, (all) => all.filter(({ outcome }) => outcome === 'passed').length === admitted + 1);
      await everyReleaseHasItsRow(admitted + 1);
      expect(await at.cli('ledger', 'verify')).toMatchObject({ code: 0 });
      figures(`full: ${admitted - 1} more had room, then refused with the alert; healed once there was room`);
    });
  });
