import fc from 'fast-check';
import { expect, test } from 'vitest';
import { gateReads } from '../../cloud/mqtt/broker-acl.ts';
import { classifyMessage, subscriptionsOf } from './incoming-messages.ts';
import { createPeerQueue, MAX_PEER_BYTES, MAX_PEER_MESSAGES } from './peer-queue.ts';
import { testLog, until } from './testing/ports.ts';

const GATE = 'arena/north-03';
const sort = (topic: string, over: { payload?: Uint8Array; retained?: boolean } = {}) =>
  classifyMessage({ topic, payload: over.payload ?? Buffer.from('{}'), retained: over.retained ?? false }, GATE);

test('subscriptionsOf returns exactly the topics that the ACL allows', () => {
  expect(
    subscriptionsOf(GATE)
      .map(({ filter }) => filter)
      .sort(),
  ).toEqual([...gateReads(GATE)].sort());
});

test('classifyMessage ignores messages that are not for this gate', () => {
  const own = `stile/1/${GATE}`;
  expect(sort(`${own}/ack`, { retained: true })).toEqual({ kind: 'ack' });
  expect(sort(`${own}/manifest/want`)).toEqual({ kind: 'want' });
  expect(sort(`${own}/overlay`)).toEqual({ kind: 'overlay' });
  expect(sort(`${own}/time/7`)).toEqual({ kind: 'time_answer', n: 7 });
  expect(sort(`${own}/lookup/7`)).toEqual({ kind: 'lookup_answer', n: 7 });
  expect(sort(`${own}/request/open`)).toEqual({ kind: 'request', command: 'open' });
  expect(sort('stile/1/arena/_all/request/mode')).toEqual({ kind: 'request', command: 'mode' });
  expect(sort('stile/1/arena/north-04/ledger')).toEqual({ kind: 'peer', ledger: 'arena/north-04' });
  expect(sort('stile/1/arena/cloud/ledger')).toEqual({ kind: 'peer', ledger: 'arena/cloud' });
  expect(sort(`${own}/alert/disk`, { retained: true })).toEqual({ kind: 'own_alert', alert: 'disk' });
  for (const topic of [
    `${own}/ledger`,
    'stile/1/arena/north-04/ack',
    'stile/1/stadium/north-03/ledger',
    'stile/1/stadium/_all/request/mode',
    `${own}/alert/disk`,
    `${own}/state`,
    'stile/2/x',
    '$SYS/broker',
  ]) {
    expect(sort(topic).kind, topic).toBe('ignored');
  }
  expect(sort(`${own}/ack`, { payload: Buffer.alloc(262_145, 0x20) })).toMatchObject({ kind: 'ignored', why: expect.stringContaining('262145') });
  expect(sort(`${own}/request/open`, { payload: Buffer.alloc(0) }).kind).toBe('ignored');
});

test('is total', () => {
  fc.assert(fc.property(fc.string(), fc.boolean(), (topic, retained) => typeof sort(topic, { retained }).kind === 'string'));
});

test('the peer queue drops messages above its bound and reports the gap', async () => {
  const applied: number[] = [];
  let dropped = 0;
  const gates: (() => void)[] = [];
  const queue = createPeerQueue({
    apply: ({ payload }) =>
      new Promise((resolve) => {
        applied.push(payload.byteLength);
        gates.push(resolve);
      }),
    dropped: () => {
      dropped += 1;
    },
    log: testLog(() => {}),
  });
  for (let i = 0; i < 1_000; i++) queue.push({ ledger: 'arena/north-04', payload: Buffer.alloc(10) });
  expect(applied).toHaveLength(1);
  const release = async () => {
    while (gates.length > 0) {
      gates.shift()?.();
      await new Promise((resolve) => setImmediate(resolve));
    }
  };
  await release();
  await until('reported', () => dropped === 1);
  expect(applied).toHaveLength(MAX_PEER_MESSAGES + 1);
  const large = Buffer.alloc(250_000);
  for (let i = 0; i < 60; i++) queue.push({ ledger: 'arena/north-04', payload: large });
  await release();
  await until('reported again', () => dropped === 2);
  expect((applied.length - MAX_PEER_MESSAGES - 2) * large.length).toBeLessThanOrEqual(MAX_PEER_BYTES);
  queue.push({ ledger: 'arena/north-04', payload: Buffer.alloc(1) });
  await release();
  expect(applied.at(-1)).toBe(1);
  expect(dropped).toBe(2);
});
