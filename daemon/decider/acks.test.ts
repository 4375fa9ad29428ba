import { expect, test } from 'vitest';
import { LedgerMessage } from '../../contract/ledger.ts';
import { ack, reasonOf, setUp } from './testing/engine.ts';
import { EVENT, GATE, newCode, peerMessage, refOf, ticket } from './testing/store.ts';

/** A decider with so many rows, all acknowledged; acks by seconds of the cloud's clock, which this gate's boot time follows. */
async function acknowledgedDesk(rows: number) {
  const { decider } = await setUp(null);
  for (let n = 0; n < rows; n++) decider.core.record({ kind: 'clock', what: 'tick', detail: `${n}` }, decider.stamp());
  const { epoch } = decider.core.status(decider.stamp());
  const hear = (atS: number, upto: number, missing: [number, number][] = [], heardAtS = atS) =>
    decider.core.acknowledge(
      { ...ack(epoch, upto, missing), cloud_time: new Date(Date.UTC(2026, 5, 1, 18) + atS * 1_000).toISOString() },
      decider.stamp({ boottimeMs: 100_000 + heardAtS * 1_000 }),
    );
  const waits = (atS: number) => decider.core.status(decider.stamp({ boottimeMs: 100_000 + atS * 1_000 }));
  const spans = () => {
    const found: [number, number][] = [];
    for (let batch = decider.core.nextBatch(null); batch !== null; batch = decider.core.nextBatch([batch.epoch, batch.uptoSeq]))
      found.push([batch.fromSeq, batch.uptoSeq]);
    return found;
  };
  expect(hear(0, rows)).toEqual({ backlog: 0, ahead: false });
  return { decider, epoch, hear, waits, spans };
}

test('rows that two acks 10 s apart leave out are sent again without any person, and told until the cloud has them (T2)', async () => {
  const { hear, waits, spans } = await acknowledgedDesk(60);
  expect(hear(20, 39, [[40, 43]])).toEqual({ backlog: 0, ahead: false });
  expect(hear(25, 39, [[40, 43]])).toEqual({ backlog: 0, ahead: false });
  expect(hear(30, 39, [[40, 43]])).toEqual({ backlog: 4, ahead: false, again: true });
  expect(waits(30)).toMatchObject({ backlog: 4, resentRows: 4 });
  expect(spans()).toEqual([[40, 43]]);
  // The third says it no louder, and one that has a part of them takes that off.
  expect(hear(41, 39, [[40, 43]])).toEqual({ backlog: 4, ahead: false });
  expect(hear(42, 41, [[42, 43]])).toEqual({ backlog: 2, ahead: false });
  expect(hear(43, 60)).toEqual({ backlog: 0, ahead: false });
  // Named a while longer: the status that people see is read every few seconds only.
  expect(waits(43)).toMatchObject({ backlog: 0, resentRows: 4 });
  expect(waits(57)).toMatchObject({ backlog: 0, resentRows: 4 });
  expect(waits(58)).toMatchObject({ backlog: 0, resentRows: 0 });
  expect(spans()).toEqual([]);
});

test('an ack that was overtaken by one that says more orders nothing; of a cloud whose clock ran backwards the own clock tells (T2)', async () => {
  const { hear, waits, spans } = await acknowledgedDesk(60);
  hear(1, 50, [], 20);
  hear(21, 60);
  // Passed over: it is older than what was said a moment ago.
  hear(2, 55, [], 22);
  hear(3, 50, [], 40);
  expect([waits(41).backlog, spans()]).toEqual([0, []]);
  hear(4, 55, [], 51);
  // Both leave these out; the rest only one of them.
  expect([waits(52).backlog, spans()]).toEqual([5, [[56, 60]]]);
  hear(53, 60);
  const other = await acknowledgedDesk(60);
  for (let n = 1; n <= 30; n++) {
    other.hear(n, 60);
    other.hear(n - 0.5, 60 - (n % 7), [], n);
  }
  other.hear(31, 60);
  expect([other.waits(200).backlog, other.spans()]).toEqual([0, []]);
});

test('a doubt that no other ack settles is put as a question: the first rows left out are sent, their ack orders the rest (T2)', async () => {
  const { hear, waits, spans } = await acknowledgedDesk(350);
  hear(20, 100);
  expect(waits(29)).toMatchObject({ backlog: 0, resentRows: 0 });
  expect(waits(31)).toMatchObject({ backlog: 100, resentRows: 100 });
  expect(spans()).toEqual([[101, 200]]);
  expect(hear(32, 200)).toEqual({ backlog: 150, ahead: false, again: true });
  expect(spans()).toEqual([
    [201, 300],
    [301, 350],
  ]);
});

test('an epoch that an ack does not name is held nowhere; one older than those it has room for may be (T2)', async () => {
  const { decider, epoch, hear, waits } = await acknowledgedDesk(5);
  const empty = (atS: number, epochs: { epoch: number; upto_seq: number; missing: [number, number][] }[]) =>
    decider.core.acknowledge(
      { schema: 1, epochs, cloud_time: new Date(Date.UTC(2026, 5, 1, 18) + atS * 1_000).toISOString() },
      decider.stamp({ boottimeMs: 100_000 + atS * 1_000 }),
    );
  empty(20, []);
  expect(empty(31, [])).toMatchObject({ backlog: 5, again: true });
  decider.core.nextBatch(null);
  hear(32, 5);
  expect(waits(33).backlog).toBe(0);
  const former = Array.from({ length: 32 }, (_, n) => ({ epoch: epoch - 40 + n, upto_seq: 1, missing: [] as [number, number][] }));
  empty(60, former);
  empty(80, former);
  expect(waits(99).backlog).toBe(0);
});

test('what is ordered to be sent again is answered, survives a restart, and is released only by an ack that comes after it was sent (T2)', async () => {
  const { decider, epoch, hear, waits, spans } = await acknowledgedDesk(60);
  hear(20, 39, [[40, 43]]);
  decider.core.record({ kind: 'clock', what: 'tick', detail: 'new' }, decider.stamp());
  // Without numbers: what the latest ack leaves out; with them: from there on.
  expect(decider.core.resend(null)).toEqual([
    [epoch, 40, 43],
    [epoch, 61, 61],
  ]);
  expect(decider.core.resend([epoch, 58])).toEqual([
    [epoch, 40, 43],
    [epoch, 58, 61],
  ]);
  decider.core.close();
  await decider.open();
  // The retained ack of before the restore says nothing about what has not been sent since.
  hear(40, 60);
  expect(waits(41)).toMatchObject({ backlog: 8, resentRows: 7 });
  expect(spans()).toEqual([
    [40, 43],
    [58, 61],
  ]);
  expect(hear(42, 61)).toEqual({ backlog: 0, ahead: false });
  expect(waits(42)).toMatchObject({ backlog: 0, resentRows: 7 });
  expect(waits(57)).toMatchObject({ backlog: 0, resentRows: 0 });
  decider.core.close();
  await decider.open();
  expect(waits(60).backlog).toBe(0);
});

test('batches hold at most 100 rows and 256 KiB, in order, and follow one another', async () => {
  const { decider } = await setUp(null);
  for (let n = 0; n < 250; n++) decider.core.record({ kind: 'clock', what: 'tick', detail: `${n}` }, decider.stamp());
  const spans: [number, number][] = [];
  for (let batch = decider.core.nextBatch(null); batch !== null; batch = decider.core.nextBatch([batch.epoch, batch.uptoSeq])) {
    const message = LedgerMessage.parse(JSON.parse(Buffer.from(batch.payload).toString()));
    expect(message.entries.map((entry) => entry.seq)).toEqual(Array.from({ length: message.entries.length }, (_, n) => batch.fromSeq + n));
    spans.push([batch.fromSeq, batch.uptoSeq]);
  }
  expect(spans).toEqual([
    [1, 100],
    [101, 200],
    [201, 250],
  ]);
});

test("an acknowledgement ahead of the own last row: a new epoch, usage lost until the site's ledger was read", async () => {
  const code = newCode();
  const { decider, notices } = await setUp({ tickets: [ticket(code)], policies: { event: { usage_lost: 'refuse' } } });
  decider.core.record({ kind: 'clock', what: 'tick', detail: '' }, decider.stamp());
  const { epoch } = decider.core.status(decider.stamp());
  expect(decider.core.acknowledge(ack(epoch, 300), decider.stamp())).toMatchObject({ ahead: true });
  const status = decider.core.status(decider.stamp());
  expect(status.epoch).toBeGreaterThan(epoch);
  expect(status).toMatchObject({ lastSeq: 1, usageComplete: false });
  expect(notices.join()).toContain('rows of this gate that this store has not');
  // The retained acknowledgement comes again with every connection: it must not begin an epoch each time.
  expect(decider.core.acknowledge(ack(epoch, 300), decider.stamp())).toMatchObject({ ahead: false });
  expect(reasonOf(decider.decide(code))).toBe('usage_lost');
  expect(decider.core.vector()).toEqual({ [GATE]: [epoch, 1] });
  // Its own lost rows come back from the cloud: the ticket was used in them.
  const entry = { kind: 'grant', event_id: EVENT, ticket_id: 't', ticket_ref: refOf(code), direction: 'in', type: 'first_entry', units: 1 };
  expect(decider.core.applyPeer(peerMessage(GATE, epoch, [{ seq: 2, ...entry }]))).toEqual({ applied: 1, gap: false });
  expect(decider.core.applyPeer(peerMessage(GATE, status.epoch, [{ seq: 1, kind: 'clock' }]))).toEqual({ applied: 0, gap: false });
  decider.core.caughtUp();
  decider.nowMs += 60_000;
  expect(reasonOf(decider.decide(code))).toBe('already_redeemed');
  decider.core.close();
  await decider.open();
  expect(decider.core.status(decider.stamp())).toMatchObject({ usageComplete: true, epoch: status.epoch });
  expect(decider.core.acknowledge(ack(epoch, 300), decider.stamp())).toMatchObject({ ahead: false });
  expect(decider.core.status(decider.stamp()).usageComplete).toBe(true);
});
