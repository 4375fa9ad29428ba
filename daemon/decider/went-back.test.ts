/** A store that goes back in time, against the cloud's account in memory: every admission counts once, whatever was lost in between (T1). */
import { cpSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import type { Decision } from '../ports.ts';
import { openLedger, type StoredEntry } from '../store/ledger.ts';
import { MAX_EPOCHS_A_DAY, RESUBMIT_STEP_ROWS } from '../store/resubmission.ts';
import { openDeciderEngine } from './decider.ts';
import type { DeciderEngine } from './engine.ts';
import { type Account, createAccount, originalOf } from './testing/account.ts';
import { createSigner, GATE, makeManifest, newCode, peerMessage, show, stampAt, storeFolder, ticket } from './testing/store.ts';

const BASE_MS = Date.UTC(2026, 5, 1, 18);
const endings: (() => void)[] = [];
afterEach(() => {
  for (const end of endings.splice(0).reverse()) end();
});

/** A gate with a store that can be copied and put back, the cloud's account, and the way between them. */
async function gateAndCloud(tickets = 12) {
  const home = storeFolder('stile-went-back-');
  endings.push(home.remove);
  const path = join(home.path, 'store');
  const signer = createSigner();
  const codes = Array.from({ length: tickets }, () => newCode());
  const notices: string[] = [];
  let nowMs = 1_000;
  let ids = 0;
  let copies = 0;
  let isOpen = false;
  const gate = {
    core: undefined as unknown as DeciderEngine,
    cloud: createAccount(GATE) as Account,
    path,
    codes,
    notices,
    stamp: () => stampAt(nowMs),
    pass(ms: number) {
      nowMs += ms;
    },
    close() {
      if (isOpen) gate.core.close();
      isOpen = false;
    },
    async open() {
      isOpen = true;
      gate.core = await openDeciderEngine({ path, gate: GATE, verifyKeys: [signer.publicKey], notice: (_what, detail) => notices.push(detail) }, gate.stamp());
    },
    decide(code: string): Decision {
      gate.pass(100);
      return gate.core.decide(++ids, show(code, nowMs), gate.stamp(), () => 0) as Decision;
    },
    /** Admits the next guest, who passes. */
    admit(n: number): Decision {
      const decision = gate.decide(codes[n] as string);
      expect(decision.verdict.kind).toBe('grant');
      gate.passed(decision);
      return decision;
    },
    passed: (decision: Decision) => gate.core.record({ kind: 'passage', of: decision.row, direction: 'in', unit: 1, outcome: 'passed' }, gate.stamp()),
    /** Sends everything that waits, and takes the ack. */
    exchange() {
      for (let batch = gate.core.nextBatch(null); batch !== null; batch = gate.core.nextBatch([batch.epoch, batch.uptoSeq])) gate.cloud.take(batch.payload);
      const question = gate.core.question();
      if (question !== null) gate.cloud.take(question);
      gate.hear();
    },
    hear() {
      gate.pass(11_000);
      return gate.core.acknowledge(gate.cloud.ack(BASE_MS + nowMs), gate.stamp());
    },
    /** One step of what can wait. */
    step: () => gate.core.idle(gate.stamp(), true),
    idle() {
      while (gate.step()) {
        /* to the end */
      }
    },
    /** Reads the cloud's copy of the own ledger, as the gate's catch-up does. */
    fetch() {
      for (const { epoch, entries } of gate.cloud.after(gate.core.vector()[GATE] ?? [0, 0])) gate.core.applyPeer(peerMessage(GATE, epoch, entries));
      gate.core.caughtUp();
    },
    /** Until nothing moves any more. */
    settle() {
      for (let round = 0; round < 8; round++) {
        gate.exchange();
        gate.idle();
      }
      gate.fetch();
    },
    copy() {
      const to = join(home.path, `copy-${copies++}`);
      gate.close();
      cpSync(path, to, { recursive: true });
      return to;
    },
    async putBack(from: string) {
      gate.close();
      rmSync(path, { recursive: true });
      cpSync(from, path, { recursive: true });
      await gate.open();
    },
    async crash() {
      gate.close();
      await gate.open();
    },
    own: () => gate.core.rows(null, 500).map(({ epoch, entry }) => ({ epoch, entry: entry as StoredEntry })),
    /** Tickets by how often the cloud counts a grant of them. */
    grants(): Record<string, number> {
      const found: Record<string, number> = {};
      for (const { entry } of gate.cloud.counted())
        if (entry.kind === 'grant') found[String(entry['ticket_id'])] = (found[String(entry['ticket_id'])] ?? 0) + 1;
      return found;
    },
    status: () => gate.core.status(gate.stamp()),
  };
  await gate.open();
  endings.push(gate.close);
  const { file, wanted } = await makeManifest(home.path, signer, {
    version: 1,
    tickets: codes.map((code, n) => ticket(code, { ticket_id: `t-${n}` })),
    policies: { event: { duplicate_window_s: 0, usage_lost: 'admit' } },
  });
  expect(await gate.core.installManifest(file, wanted, gate.stamp())).toMatchObject({ ok: true });
  return gate;
}

const once = (...numbers: number[]) => Object.fromEntries(numbers.map((n) => [`t-${n}`, 1]));

test('a store that was put back writes as many rows as the cloud had of it: a new epoch, and every admission counts once (T1)', async () => {
  const gate = await gateAndCloud();
  gate.admit(0);
  gate.exchange();
  const copy = gate.copy();
  await gate.open();
  gate.admit(1);
  gate.admit(2);
  gate.exchange();
  expect(gate.grants()).toEqual(once(0, 1, 2));
  await gate.putBack(copy);
  const { epoch } = gate.status();
  gate.admit(3);
  gate.admit(4);
  gate.exchange();
  expect(gate.status().epoch).toBeGreaterThan(epoch);
  expect(gate.status()).toMatchObject({ usageComplete: false, wentBack: { rows: 0 } });
  gate.settle();
  expect(gate.grants()).toEqual(once(0, 1, 2, 3, 4));
  expect(gate.cloud.openForks()).toEqual([]);
  expect(gate.status()).toMatchObject({ backlog: 0, usageComplete: true, clone: false });
  // The rows are the originals' but for their place: times, boot and offset are what they were.
  const rows = gate.own();
  const again = rows.filter(({ entry }) => entry['again'] !== undefined);
  expect(again.length).toBeGreaterThan(4);
  for (const { entry } of again) {
    const [ofEpoch, ofSeq, hash] = entry['again'] as [number, number, string];
    const original = rows.find((row) => row.epoch === ofEpoch && row.entry.seq === ofSeq)?.entry;
    const { seq: _seq, hash: _hash, again: _again, ...rest } = entry;
    const { seq: _originalSeq, hash: originalHash, ...originalRest } = original as StoredEntry;
    expect([rest, hash]).toEqual([originalRest, originalHash]);
  }
  // Who went in during the other life is known here again, and nobody goes in twice.
  for (const n of [0, 1, 2, 3, 4]) expect(gate.decide(gate.codes[n] as string).verdict).toMatchObject({ kind: 'refusal', reason: 'already_redeemed' });
});

test('fewer rows offline than the cloud is ahead: what was written before the first acknowledgement counts, once (T1)', async () => {
  const gate = await gateAndCloud();
  const copy = gate.copy();
  await gate.open();
  for (const n of [0, 1, 2, 3]) gate.admit(n);
  gate.exchange();
  await gate.putBack(copy);
  gate.admit(4);
  gate.settle();
  expect(gate.grants()).toEqual(once(0, 1, 2, 3, 4));
  expect(gate.cloud.openForks()).toEqual([]);
});

test('a store that lost its last writes and hears so before it writes anything begins a new epoch as well (T1)', async () => {
  const gate = await gateAndCloud();
  const copy = gate.copy();
  await gate.open();
  gate.admit(0);
  gate.exchange();
  await gate.putBack(copy);
  expect(gate.hear()).toMatchObject({ ahead: true });
  gate.admit(1);
  gate.settle();
  expect(gate.grants()).toEqual(once(0, 1));
  expect(gate.decide(gate.codes[0] as string).verdict.kind).toBe('refusal');
});

test('the cloud holds rows above a hole that this store never wrote: it went back too, though the prefix is its own (T1)', async () => {
  const gate = await gateAndCloud();
  gate.admit(0);
  gate.exchange();
  const copy = gate.copy();
  await gate.open();
  gate.admit(1);
  gate.admit(2);
  // Only the last rows of this life arrive.
  const batch = JSON.parse(Buffer.from(gate.core.nextBatch(null)?.payload ?? '{}').toString()) as { entries: unknown[] };
  gate.cloud.take(Buffer.from(JSON.stringify({ ...batch, entries: batch.entries.slice(-1) })));
  await gate.putBack(copy);
  expect(gate.hear()).toMatchObject({ ahead: true });
  gate.admit(3);
  gate.settle();
  expect(gate.grants()).toEqual(once(0, 3));
});

test('a store put back twice, with and without the broker between, counts every life once (T1)', async () => {
  const gate = await gateAndCloud();
  gate.admit(0);
  gate.exchange();
  const copy = gate.copy();
  await gate.open();
  gate.admit(1);
  gate.settle();
  await gate.putBack(copy);
  gate.admit(2);
  // This life never reached the cloud; only its copy did.
  const offline = gate.copy();
  await gate.putBack(copy);
  gate.admit(3);
  gate.settle();
  await gate.putBack(offline);
  gate.admit(4);
  gate.settle();
  expect(gate.grants()).toEqual(once(0, 1, 2, 3, 4));
  expect(gate.cloud.openForks()).toEqual([]);
  expect(gate.status()).toMatchObject({ backlog: 0, usageComplete: true });
});

test('a grant whose guest passes after the new epoch began keeps the passage; a crash between steps resends each original once (T1)', async () => {
  const gate = await gateAndCloud();
  const copy = gate.copy();
  await gate.open();
  gate.admit(0);
  gate.exchange();
  await gate.putBack(copy);
  for (let n = 0; n < 3 * RESUBMIT_STEP_ROWS; n++) gate.core.record({ kind: 'clock', what: 'tick', detail: `${n}` }, gate.stamp());
  const open = gate.decide(gate.codes[1] as string);
  gate.hear();
  gate.passed(open);
  expect(gate.step()).toBe(true);
  await gate.crash();
  expect(gate.status().wentBack).toMatchObject({ left: expect.any(Number) });
  gate.step();
  await gate.crash();
  gate.settle();
  const again = gate.cloud.rows().filter(({ entry }) => entry['again'] !== undefined);
  const originals = again.map((row) => originalOf(row).join(' '));
  expect(new Set(originals).size).toBe(originals.length);
  expect(gate.cloud.counted().filter(({ entry }) => entry['what'] === 'tick')).toHaveLength(3 * RESUBMIT_STEP_ROWS);
  expect(gate.grants()).toEqual(once(0, 1));
  const passages = gate.cloud.counted().filter(({ entry }) => entry.kind === 'passage' && entry['ticket_id'] === 't-1');
  expect(passages.map(({ entry }) => entry['outcome'])).toEqual(['passed']);
});

test('a database that is restored while the store has gone back brings back every row that is held (T1, T2)', async () => {
  const gate = await gateAndCloud();
  gate.admit(0);
  gate.exchange();
  const copy = gate.copy();
  await gate.open();
  gate.admit(1);
  gate.exchange();
  const dump = gate.cloud.dump();
  await gate.putBack(copy);
  gate.admit(2);
  gate.settle();
  gate.cloud = dump;
  // Another life of the database: one ack is enough.
  expect(gate.hear()).toMatchObject({ again: true });
  gate.settle();
  expect(gate.grants()).toEqual(once(0, 1, 2));
  expect(gate.status()).toMatchObject({ backlog: 0 });
});

test(`after ${MAX_EPOCHS_A_DAY} new epochs in a day no further one begins: the gate says "clone", sends nothing and goes on (T1)`, async () => {
  const gate = await gateAndCloud(30);
  const copy = gate.copy();
  await gate.open();
  let other = 0;
  /** Another device with the same identity: a copy of this store that is used elsewhere. */
  const elsewhere = async () => {
    const here = gate.copy();
    await gate.putBack(here);
    gate.admit(20 + other++);
    gate.exchange();
    await gate.putBack(here);
  };
  await gate.putBack(copy);
  for (let n = 0; n < MAX_EPOCHS_A_DAY; n++) {
    await elsewhere();
    gate.admit(n);
    gate.settle();
    expect(gate.status()).toMatchObject({ clone: false, backlog: 0 });
  }
  await elsewhere();
  const { epoch } = gate.status();
  gate.admit(10);
  gate.hear();
  expect(gate.status()).toMatchObject({ clone: true, epoch });
  expect(gate.core.nextBatch(null)).toBeNull();
  gate.admit(11);
  // A day later it may again.
  gate.pass(25 * 3_600_000);
  gate.settle();
  expect(gate.status()).toMatchObject({ clone: false, backlog: 0 });
  expect(gate.grants()).toMatchObject(once(10, 11));
});

test('a cloud that names no hashes is believed by its numbers, and gets no row twice', async () => {
  const gate = await gateAndCloud();
  gate.admit(0);
  gate.exchange();
  const copy = gate.copy();
  await gate.open();
  gate.admit(1);
  gate.exchange();
  await gate.putBack(copy);
  gate.pass(20_000);
  const { epochs } = gate.cloud.ack(BASE_MS);
  const bare = {
    schema: 1 as const,
    cloud_time: new Date(BASE_MS).toISOString(),
    epochs: epochs.map(({ epoch, upto_seq, missing }) => ({ epoch, upto_seq, missing })),
  };
  expect(gate.core.acknowledge(bare, gate.stamp())).toMatchObject({ ahead: true });
  gate.idle();
  gate.admit(2);
  expect(gate.own().filter(({ entry }) => entry['again'] !== undefined)).toEqual([]);
});

test('rows that were pruned and that a restored database lacks are declared gone; another copy of the store that holds them sends them (T2)', async () => {
  const gate = await gateAndCloud();
  const dump = gate.cloud.dump();
  for (const n of [0, 1, 2]) gate.admit(n);
  gate.settle();
  const { epoch } = gate.status();
  const before = gate.copy();
  const ledger = openLedger({ path: join(gate.path, 'ledger.sqlite'), name: GATE, stamp: gate.stamp() });
  expect(ledger.prune(epoch, 4, 100)).toBe(4);
  ledger.close();
  await gate.open();
  gate.cloud = dump;
  gate.settle();
  // The prefix passes over what nobody has any more, and the rest is there.
  expect(gate.grants()).toEqual(once(2));
  expect(gate.cloud.ack(0).epochs).toMatchObject([
    {
      epoch,
      missing: [],
      gone: [
        [1, 1],
        [2, 2],
        [3, 3],
        [4, 4],
      ],
    },
  ]);
  expect(gate.status()).toMatchObject({ backlog: 0 });
  await gate.putBack(before);
  gate.settle();
  expect(gate.grants()).toEqual(once(0, 1, 2));
  expect(gate.cloud.openForks()).toEqual([]);
});
