import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { createSimClock } from '../clock/clock.ts';
import { createDesk } from './client.ts';
import { stampOf, startDeskThread } from './early-start.ts';
import { GATE, storeFolder } from './testing/store.ts';

const endings: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const end of endings.splice(0).reverse()) await end();
});
const WORKER = new URL('./worker.ts', import.meta.url);

function setUp() {
  const folder = storeFolder();
  endings.push(folder.remove);
  const clock = createSimClock();
  const store = { path: join(folder.path, 'store'), gate: GATE, verifyKeys: [], release: null };
  const thread = startDeskThread(WORKER);
  const notices: string[] = [];
  const desk = createDesk({ ...store, clock, thread, notice: (_what, detail) => void notices.push(detail) });
  endings.push(() => desk.close());
  return { clock, store, thread, desk, notices };
}

test('a store that was opened early is the one that the desk then has', async () => {
  const { clock, store, thread, desk } = setUp();
  thread.openEarly(store, stampOf(clock));
  const { epoch } = await desk.open();
  expect(await desk.record({ kind: 'fault', what: 'other', detail: 'try' })).toEqual([epoch, 1]);
});

test('an early open that failed is tried again by the desk itself', async () => {
  const { clock, store, thread, desk, notices } = setUp();
  thread.openEarly({ ...store, path: '/dev/null/store' }, stampOf(clock));
  await expect(desk.open()).resolves.toMatchObject({ lastSeq: 0 });
  expect(notices).toEqual([]);
});

test('a thread that has ended is not used', async () => {
  const thread = startDeskThread(new URL('./no-such-worker.ts', import.meta.url));
  const folder = storeFolder();
  endings.push(folder.remove);
  await new Promise((resolve) => setTimeout(resolve, 1_000));
  const desk = createDesk({ path: join(folder.path, 'store'), gate: GATE, verifyKeys: [], clock: createSimClock(), thread });
  endings.push(() => desk.close());
  await expect(desk.open()).resolves.toMatchObject({ lastSeq: 0 });
});
