import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type { AckMessage } from '../../contract/ledger.ts';
import { createLedgerSender, type LedgerSenderOptions, QUESTION_PERIOD_MS } from './ledger-sender.ts';
import type { Published } from './mqtt-session.ts';
import { testDecider } from './testing/ports.ts';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

const ack = (epoch: number, upto_seq: number): AckMessage => ({
  schema: 1,
  epochs: [{ epoch, upto_seq, missing: [] }],
  cloud_time: '2026-01-01T00:00:00.000Z',
});
const seqOf = (payload: Uint8Array): number => JSON.parse(Buffer.from(payload).toString()).entries[0].seq;

/** An outbox on a ledger in memory, and the first seq of everything that it sent. */
function rig(over: Partial<LedgerSenderOptions> = {}) {
  const decider = testDecider('arena/north-03', 7);
  const sent: number[] = [];
  const refusals: number[] = [];
  const failures: string[] = [];
  let answer: Published = { result: 'sent' };
  const outbox = createLedgerSender({
    nextBatch: (after) => decider.nextBatch(after),
    nowMs: () => Date.now(),
    refused: (code) => refusals.push(code),
    failed: (error) => failures.push(error.message),
    resendFirstMs: 1_000,
    resendMaxMs: 8_000,
    ...over,
  });
  const start = () =>
    outbox.start(async (payload) => {
      sent.push(seqOf(payload));
      return answer;
    });
  const acknowledge = (upto: number) => {
    decider.acknowledge(ack(7, upto));
    outbox.acknowledged(ack(7, upto));
  };
  return {
    decider,
    outbox,
    sent,
    refusals,
    failures,
    start,
    acknowledge,
    answer: (published: Published) => {
      answer = published;
    },
  };
}
const settle = () => vi.advanceTimersByTimeAsync(0);

test('the ledger sender fills the window in order and moves it with each ack', async () => {
  const { decider, outbox, sent, start, acknowledge } = rig();
  decider.write(1_050);
  start();
  await settle();
  expect(sent).toEqual([1, 101, 201, 301, 401, 501, 601, 701]);
  acknowledge(150);
  await settle();
  expect(sent.slice(8)).toEqual([801]);
  acknowledge(900);
  await settle();
  expect(sent.slice(9)).toEqual([901, 1001]);
  expect(outbox.inFlight()).toBe(2);
});

test('an ack of another epoch, or of less than a batch, releases nothing', async () => {
  const { decider, outbox, sent, start } = rig();
  decider.write(900);
  start();
  await settle();
  outbox.acknowledged(ack(8, 900));
  outbox.acknowledged(ack(7, 99));
  await settle();
  expect(outbox.inFlight()).toBe(8);
  expect(sent).toHaveLength(8);
});

test('the ledger sender resends the oldest batch with backoff, and the rest after an ack', async () => {
  const { decider, sent, start, acknowledge } = rig();
  decider.write(300);
  start();
  await settle();
  await vi.advanceTimersByTimeAsync(60_000);
  const probes = sent.slice(3);
  expect(probes.length).toBeGreaterThanOrEqual(8);
  expect(probes.length).toBeLessThanOrEqual(20);
  expect(new Set(probes)).toEqual(new Set([1]));
  const before = sent.length;
  acknowledge(100);
  await settle();
  expect(sent.slice(before)).toEqual([101, 201]);
  acknowledge(300);
  await vi.advanceTimersByTimeAsync(120_000);
  expect(sent.slice(before)).toEqual([101, 201]);
});

test('the ledger sender begins with the oldest unacknowledged row on a new connection', async () => {
  const { decider, outbox, sent, start, acknowledge } = rig();
  decider.write(500);
  start();
  await settle();
  acknowledge(200);
  outbox.stop();
  expect(outbox.inFlight()).toBe(0);
  outbox.kick();
  await vi.advanceTimersByTimeAsync(60_000);
  expect(sent).toHaveLength(5);
  start();
  await settle();
  expect(sent.slice(5)).toEqual([201, 301, 401]);
});

test('rows before those in flight are sent at once when the window is emptied (T2)', async () => {
  const decider = testDecider('arena/north-03', 7);
  decider.write(300);
  decider.acknowledge(ack(7, 200));
  let abandonedGrants = false;
  const { outbox, sent, start } = rig({
    nextBatch: async (after) =>
      abandonedGrants && (after === null || after[1] < 150)
        ? { epoch: 7, fromSeq: 101, uptoSeq: 150, payload: Buffer.from('{"entries":[{"seq":101}]}') }
        : decider.nextBatch(after),
  });
  start();
  await settle();
  expect(sent).toEqual([201]);
  abandonedGrants = true;
  outbox.kick();
  await settle();
  expect(sent).toEqual([201]);
  outbox.kick(true);
  await settle();
  expect(sent.slice(1)).toEqual([101, 201]);
});

test('the ledger sender reports and retries a refused batch', async () => {
  const r = rig();
  r.decider.write(10);
  r.answer({ result: 'refused', code: 135 });
  r.start();
  await settle();
  expect(r.refusals).toEqual([135]);
  r.answer({ result: 'sent' });
  await vi.advanceTimersByTimeAsync(1_000);
  expect(r.sent).toEqual([1, 1]);
});

test('the ledger sender retries when reading the ledger fails', async () => {
  let broken = true;
  const decider = testDecider('arena/north-03', 7);
  decider.write(5);
  const r = rig({
    resendFirstMs: 60_000,
    resendMaxMs: 60_000,
    nextBatch: async (after) => {
      if (broken) throw new Error('disk I/O error');
      return decider.nextBatch(after);
    },
  });
  r.start();
  await settle();
  expect(r.failures).toEqual(['disk I/O error']);
  broken = false;
  await vi.advanceTimersByTimeAsync(2_000);
  expect(r.sent).toEqual([1]);
});

test('a stalled read that answers after the connection ended sends nothing on the next one twice', async () => {
  const decider = testDecider('arena/north-03', 7);
  decider.write(50);
  const stalled: (() => void)[] = [];
  const r = rig({
    nextBatch: (after) =>
      new Promise((resolve) => {
        stalled.push(() => resolve(decider.nextBatch(after)));
      }),
  });
  r.start();
  r.outbox.stop();
  r.start();
  while (stalled.length > 0) {
    stalled.shift()?.();
    await settle();
  }
  expect(r.sent).toEqual([1]);
});

test('a thousand kicks cost one read', async () => {
  let reads = 0;
  const r = rig({
    nextBatch: async () => {
      reads += 1;
      return null;
    },
  });
  r.start();
  for (let i = 0; i < 1_000; i++) r.outbox.kick();
  await settle();
  expect(reads).toBeLessThanOrEqual(3);
});

test('the ledger sender sends new rows once to other gates without acks, and resends the rest after an ack', async () => {
  const { decider, outbox, sent, start, acknowledge } = rig();
  start();
  for (let row = 1; row <= 30; row++) {
    decider.write(1);
    outbox.kick();
    await vi.advanceTimersByTimeAsync(200);
  }
  await vi.advanceTimersByTimeAsync(1_000);
  expect([...new Set(sent)]).toEqual(Array.from({ length: 30 }, (_, index) => index + 1));
  expect(outbox.inFlight()).toBeLessThanOrEqual(8);
  const before = sent.length;
  acknowledge(1);
  await vi.advanceTimersByTimeAsync(500);
  expect(sent.slice(before)).toEqual([2]);
});

test('an ack without a probe makes the ledger sender probe at once; an ack after a probe does not', async () => {
  const { decider, outbox, sent, start, acknowledge } = rig({ resendFirstMs: 60_000, resendMaxMs: 60_000 });
  decider.write(150);
  start();
  await vi.advanceTimersByTimeAsync(5_000);
  expect(sent).toEqual([1, 101]);
  const before = sent.length;
  outbox.acknowledged(ack(7, 0));
  await settle();
  expect(sent.slice(before)).toEqual([1]);
  // The cloud could not take it, and says so: that asks for no further one.
  outbox.acknowledged(ack(7, 0));
  await settle();
  expect(sent.slice(before)).toEqual([1]);
  acknowledge(100);
  await settle();
  expect(sent.slice(before)).toEqual([1, 101]);
});

test('the window does not slide over a batch that the broker has not acknowledged', async () => {
  const { decider, outbox, sent, start, answer } = rig();
  answer({ result: 'refused', code: 135 });
  start();
  for (let row = 1; row <= 20; row++) {
    decider.write(1);
    outbox.kick();
    await vi.advanceTimersByTimeAsync(200);
  }
  expect(Math.max(...sent)).toBe(8);
});

test('the ledger sender asks what the cloud holds on connect and every 30 s, until the connection ends', async () => {
  const questions: number[] = [];
  let asked = 0;
  const { outbox } = rig({ question: async () => (++asked > 3 ? null : Buffer.from(JSON.stringify({ entries: [], asked }))) });
  outbox.start(async (payload) => {
    questions.push((JSON.parse(Buffer.from(payload).toString()) as { asked: number }).asked);
    return { result: 'sent' };
  });
  await settle();
  expect(questions).toEqual([1]);
  await vi.advanceTimersByTimeAsync(2 * QUESTION_PERIOD_MS);
  expect(questions).toEqual([1, 2, 3]);
  // A cloud that answers none gets none.
  await vi.advanceTimersByTimeAsync(QUESTION_PERIOD_MS);
  expect([questions.length, asked]).toEqual([3, 4]);
  outbox.stop();
  await vi.advanceTimersByTimeAsync(3 * QUESTION_PERIOD_MS);
  expect(asked).toBe(4);
});
