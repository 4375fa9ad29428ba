import { expect, test } from 'vitest';
import type { GateEvent, GateSnapshot } from '../gate/live-feed.ts';
import { createHealthReports, HEALTH_GAP_MS } from './health-schedule.ts';

const START = {
  online: false,
  boardOk: true,
  diskOk: true,
  readers: [{ name: 'in', direction: 'in', ok: true }],
  in: { mode: 'controlled' },
  out: { mode: 'controlled' },
  decider: null,
} as unknown as GateSnapshot;

function setUp() {
  let snapshot = START;
  let listener: (event: GateEvent) => void = () => undefined;
  let due: { atMs: number; call: () => void } | null = null;
  const world = { nowMs: 0, trusted: true, published: [] as number[] };
  const reports = createHealthReports({
    subscribe: (heard) => {
      listener = heard;
      heard({ kind: 'snapshot', snapshot });
      return () => undefined;
    },
    clockTrusted: () => world.trusted,
    publish: () => world.published.push(world.nowMs),
    nowMs: () => world.nowMs,
    after: (ms, call) => {
      due = { atMs: world.nowMs + ms, call };
      return { cancel: () => (due = null) };
    },
  });
  const change = (part: Partial<GateSnapshot>) => {
    snapshot = { ...snapshot, ...part };
    listener({ kind: 'snapshot', snapshot });
  };
  const pass = (ms: number) => {
    world.nowMs += ms;
    const one = due;
    if (one === null || one.atMs > world.nowMs) return;
    due = null;
    one.call();
  };
  return { world, reports, change, pass };
}

test('health goes out with the connection and with every change of a flag, and not for anything else', () => {
  const { world, reports, change, pass } = setUp();
  expect(world.published).toEqual([]);
  pass(2_000);
  change({ online: true });
  expect(world.published).toEqual([2_000]);
  pass(5_000);
  change({ wallMs: 9, pendingEntryCount: 3 });
  reports.look();
  expect(world.published).toEqual([2_000]);
  change({ readers: [{ name: 'in', direction: 'in', ok: false, bytes: 0, frames: 0, garbled: 0, unknown: 0, noise: 0, problem: null }] });
  expect(world.published).toEqual([2_000, 7_000]);
  pass(HEALTH_GAP_MS);
  world.trusted = false;
  reports.look();
  expect(world.published).toEqual([2_000, 7_000, 8_000]);
});

test('a flag that flutters is told once a gap, and its last word is', () => {
  const { world, change, pass } = setUp();
  change({ online: true });
  for (let n = 0; n < 100; n++) change({ boardOk: n % 2 === 0 });
  expect(world.published).toEqual([0]);
  pass(HEALTH_GAP_MS - 1);
  expect(world.published).toEqual([0]);
  pass(1);
  expect(world.published).toEqual([0, HEALTH_GAP_MS]);
});

test('nothing is published while nobody can hear it, and the period takes the place of what waits', () => {
  const { world, reports, change, pass } = setUp();
  change({ boardOk: false });
  expect(world.published).toEqual([]);
  change({ online: true });
  change({ boardOk: true });
  reports.published();
  pass(HEALTH_GAP_MS);
  expect(world.published).toEqual([0]);
});
