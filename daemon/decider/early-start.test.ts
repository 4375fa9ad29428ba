import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { createSimClock } from '../clock/clock.ts';
import { createDeciderClient } from './client.ts';
import { startWorkerEarly, timestampNow } from './early-start.ts';
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
  const thread = startWorkerEarly(WORKER);
  const notices: string[] = [];
  const decider = createDeciderClient({ ...store, clock, thread, notice: (_what, detail) => void notices.push(detail) });
  endings.push(() => decider.close());
  return { clock, store, thread, decider, notices };
}

test('a store that was opened early is the one that the decider then has', async () => {
  const { clock, store, thread, decider } = setUp();
  thread.openEarly(store, timestampNow(clock));
  const { epoch } = await decider.open();
  expect(await decider.record({ kind: 'fault', what: 'other', detail: 'try' })).toEqual([epoch, 1]);
});

test('an early open that failed is tried again by the decider itself', async () => {
  const { clock, store, thread, decider, notices } = setUp();
  thread.openEarly({ ...store, path: '/dev/null/store' }, timestampNow(clock));
  await expect(decider.open()).resolves.toMatchObject({ lastSeq: 0 });
  expect(notices).toEqual([]);
});

test('a thread that has ended is not used', async () => {
  const thread = startWorkerEarly(new URL('./no-such-worker.ts', import.meta.url));
  const folder = storeFolder();
  endings.push(folder.remove);
  await new Promise((resolve) => setTimeout(resolve, 1_000));
  const decider = createDeciderClient({ path: join(folder.path, 'store'), gate: GATE, verifyKeys: [], clock: createSimClock(), thread });
  endings.push(() => decider.close());
  await expect(decider.open()).resolves.toMatchObject({ lastSeq: 0 });
});
