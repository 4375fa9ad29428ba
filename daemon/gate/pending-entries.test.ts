import { expect, test } from 'vitest';
import type { RowPosition } from '../../contract/ids.ts';
import type { LaneNote } from '../lane/types.ts';
import type { Note } from '../ports.ts';
import type { Timers } from '../timers.ts';
import { createPendingEntries, MAX_PENDING_ENTRIES } from './pending-entries.ts';

/** A ledger that fails while told to, and timers that run when told to. */
function createDisk() {
  const disk = { fails: false, tries: 0, rows: [] as Note[], faults: 0, waiting: [] as (() => void)[] };
  const timers: Timers = {
    after(_, run) {
      disk.waiting.push(run);
      return { cancel: () => void disk.waiting.splice(disk.waiting.indexOf(run), 1) };
    },
  };
  const pendingEntries = createPendingEntries({
    timers,
    report: ({ kind }) => void (disk.faults += kind === 'store_failed' ? 1 : 0),
    decider: {
      async record(note): Promise<RowPosition> {
        disk.tries += 1;
        if (disk.fails) throw new Error('disk full');
        disk.rows.push(note);
        return [1, disk.rows.length];
      },
    },
  });
  const settle = () => new Promise<void>((resolve) => setImmediate(resolve));
  return {
    disk,
    pendingEntries,
    settle,
    async later() {
      for (const run of disk.waiting.splice(0)) run();
      await settle();
    },
  };
}
const alarm = (what: string): LaneNote => ({ kind: 'alarm', what, detail: '' });
const passed = (override: number): LaneNote => ({ kind: 'passage', of: { override }, direction: 'in', unit: 1, outcome: 'passed' });
const open: LaneNote = { kind: 'override', actor: 'button', action: 'open', reason: 'staff button', direction: 'in', units: 1 };
const names = (rows: readonly Note[]) => rows.map((note) => ('what' in note ? note.what : note.kind));

test('nothing is written before the decider is open; then all in order, a passage pointing at its override', async () => {
  const { disk, pendingEntries, settle } = createDisk();
  void pendingEntries.add(alarm('a'));
  void pendingEntries.add(open, 1);
  void pendingEntries.add(passed(1));
  await settle();
  expect([disk.tries, pendingEntries.pending()]).toEqual([0, 3]);
  pendingEntries.start();
  await settle();
  expect([names(disk.rows), disk.rows[2]]).toEqual([
    ['a', 'override', 'passage'],
    { kind: 'passage', of: [1, 2], direction: 'in', unit: 1, outcome: 'passed' },
  ]);
});

test('a disk that fails is tried by one note at a time; when it works all are written, in order', async () => {
  const { disk, pendingEntries, settle, later } = createDisk();
  pendingEntries.start();
  disk.fails = true;
  for (const what of ['a', 'b', 'c']) void pendingEntries.add(alarm(what));
  await settle();
  const first = disk.tries;
  await later();
  await later();
  void pendingEntries.add(alarm('d'));
  await settle();
  expect([disk.tries - first, disk.rows, pendingEntries.pending()]).toEqual([2, [], 4]);
  disk.fails = false;
  await later();
  await settle();
  expect([names(disk.rows), pendingEntries.pending(), disk.faults > 0]).toEqual([['a', 'b', 'c', 'd'], 0, true]);
});

test('flush answers when all is written, or that it is late', async () => {
  const { disk, pendingEntries, settle, later } = createDisk();
  pendingEntries.start();
  disk.fails = true;
  void pendingEntries.add(alarm('a'));
  await settle();
  const late = pendingEntries.flush(2_000);
  await later();
  expect(await late).toBe(false);
  disk.fails = false;
  await later();
  expect(await pendingEntries.flush(2_000)).toBe(true);
});

test('beyond the bound what matters least gives way, and a row says how many', async () => {
  const { disk, pendingEntries, settle, later } = createDisk();
  disk.fails = true;
  void pendingEntries.add(alarm('least'));
  void pendingEntries.add({ kind: 'passage', of: null, direction: 'in', unit: null, outcome: 'free' });
  for (let index = 0; index < MAX_PENDING_ENTRIES; index += 1) void pendingEntries.add(open, index);
  expect([pendingEntries.pending(), pendingEntries.dropped()]).toEqual([MAX_PENDING_ENTRIES, 2]);
  disk.fails = false;
  pendingEntries.start();
  await settle();
  await later();
  await settle();
  expect([names(disk.rows).filter((name) => name !== 'override'), disk.rows.length]).toEqual([['notes_lost'], MAX_PENDING_ENTRIES + 1]);
});
