/** What may be away, and what may die: the broker, the cloud, a gate. Every row reaches Postgres once, and gates decide all the while. */
import { dirname, join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { connectOwner } from '../../cloud/db/database.ts';
import { MAX_BATCHES_IN_FLIGHT } from '../../contract/limits.ts';
import type { GateProcess } from '../../testkit/gate-process.ts';
import {
  difference,
  enter,
  eventually,
  newCode,
  openVenue,
  openWires,
  ownLedger,
  type Row,
  ready,
  show,
  stileGate,
  type Ticket,
  type Venue,
} from './environment.ts';

/** STILE_PROVE=1: the long forms. */
const PROVE = process.env['STILE_PROVE'] === '1';
/** At both gates together; more than fit into one batch in either form. */
const SCANS = PROVE ? 300 : 90;
/** Of three guests at a gate one has a good ticket; the others are quick. */
const TURN = 3;

/** A transaction that has written ledger rows, or what a ticket's entry comes to, and waits for the admissions. */
const IN_MID_BATCH = `SELECT 1 FROM pg_locks waiting JOIN pg_locks written ON written.pid = waiting.pid AND written.granted
  AND written.mode = 'RowExclusiveLock' AND (written.relation::regclass::text LIKE 'ledger_lines%' OR written.relation = 'ticket_usage'::regclass)
  WHERE NOT waiting.granted AND waiting.relation = 'admissions'::regclass`;

let venue: Venue;
let north: GateProcess;
let south: GateProcess;

beforeAll(async () => {
  // A passage that nobody saw stays used: with `retry_here` the same ticket would be admitted here once more.
  venue = await openVenue({ tickets: 200, passageMs: 50, policies: { unknown_passage: 'used' } });
  [north, south] = venue.gates as [GateProcess, GateProcess];
});
afterAll(() => venue?.close());
/** Starts again what a failed test left down: the next ones would fail. */
afterEach(async () => {
  if (venue.broker.pid() === undefined) await venue.broker.restart();
  await venue.stack.startCloud();
  for (const gate of venue.gates) await gate.start();
});

/** Returns whether the gate's store counts this grant of another gate. */
function holdsGrant(gate: GateProcess, grant: Row | undefined): boolean {
  const store = new DatabaseSync(join(dirname(gate.configFile), 'store', 'usage.sqlite'), { readOnly: true });
  try {
    return (
      store.prepare('SELECT 1 FROM admissions WHERE gate = ? AND epoch = ? AND seq = ?').get(grant?.gate ?? '', grant?.epoch ?? 0, grant?.seq ?? 0) !==
      undefined
    );
  } finally {
    store.close();
  }
}

/** A quick guest: through in no time. */
async function hurry(gate: GateProcess): Promise<void> {
  const wires = await openWires(gate);
  await wires.send({ walk: { delay_ms: 20 } });
  wires.close();
}

test(`the broker is away for the whole of ${SCANS} scans at two gates: nobody waits, and every row arrives once`, async () => {
  const before = await venue.settled();
  await Promise.all(venue.gates.map(hurry));
  // Shown at both gates while neither can hear of the other: both admit, and the account says so.
  const twice = [venue.ticket(), venue.ticket(), venue.ticket()];
  await venue.broker.kill();
  await Promise.all(venue.gates.map((gate) => gate.until(({ uplink }) => !uplink.online, 90_000)));

  const told = await Promise.all(
    venue.gates.map(async (gate) => {
      const words: string[] = [];
      for (let number = 0; number < SCANS / 2; number++) {
        const good = number % TURN === 0;
        const code = !good ? newCode() : ((number / TURN < twice.length ? twice[number / TURN] : venue.ticket()) as Ticket).code;
        const answer = await show(gate, code);
        expect(answer.kind, answer.words).toBe(good ? 'granted' : 'refused');
        words.push(answer.kind);
      }
      return words;
    }),
  );
  expect(told.flat()).toHaveLength(SCANS);
  await Promise.all(venue.gates.map((gate) => eventually('an idle lane', async () => ready(await gate.fresh()))));
  const decisions = (rows: readonly { readonly kind: string }[]) => rows.filter(({ kind }) => kind === 'grant' || kind === 'refusal').length;
  expect(decisions(await venue.stored())).toBe(decisions(before));
  const own = (await Promise.all(venue.gates.map(ownLedger))).flat();
  expect(
    own.filter(({ kind }) => kind === 'grant' || kind === 'refusal').length - before.filter(({ kind }) => kind === 'grant' || kind === 'refusal').length,
  ).toBe(SCANS);
  for (const gate of venue.gates) expect((await gate.fresh()).ledger.backlog).toBeGreaterThanOrEqual(SCANS / 2);

  await venue.broker.restart();
  const held = await venue.settled();
  expect(
    difference(
      own,
      held.filter((row) => own.some(({ gate, epoch, seq }) => gate === row.gate && epoch === row.epoch && seq === row.seq)),
    ),
  ).toBe('');
  await eventually(
    'the backlog to be acknowledged',
    async () => (await Promise.all(venue.gates.map((gate) => gate.fresh()))).every(({ ledger }) => ledger.backlog === 0),
    90_000,
  );
  const verdicts = await venue.ask<{ verdict: string; n: number }>(
    'SELECT verdict, count(*)::int AS n FROM admissions WHERE ticket_id = ANY($1) GROUP BY 1 ORDER BY 1',
    [twice.map(({ ticketId }) => ticketId)],
  );
  expect(verdicts).toEqual([
    { verdict: 'excess', n: twice.length },
    { verdict: 'winner', n: twice.length },
  ]);
  expect(await venue.ask('SELECT count(*)::int AS n FROM conflicts')).toEqual([{ n: twice.length }]);
  // The gates that gave them are told, and show them in the words of a refusal.
  await eventually('the gates to know of them', async () => {
    const statuses = await Promise.all(venue.gates.map((gate) => gate.fresh()));
    return statuses.reduce((sum, { conflicts }) => sum + conflicts.standing, 0) === twice.length;
  });
  for (const gate of venue.gates) {
    const { conflicts } = await gate.fresh();
    for (const { words, row } of conflicts.newest) {
      expect(words).toMatch(/beyond the ticket's right: already used/);
      expect((await stileGate(gate, 'ledger', 'ls', '--last', '1000', '--kind', 'grant')).stdout).toContain(`${row.join('/')} `);
    }
    if (conflicts.standing > 0) expect((await stileGate(gate, 'status')).stdout).toMatch(/conflicts +\d+ guests? beyond the right/);
  }
  // A guest whose decision came too late on a busy machine got the ticket back.
  const returned = held.filter(({ kind, entry }) => kind === 'passage' && entry['outcome'] === 'returned').length;
  const granted = held.filter(({ kind }) => kind === 'grant').length;
  expect(await venue.ask('SELECT sum(scan_count)::int AS n FROM tickets')).toEqual([{ n: granted - returned - twice.length }]);
});

test('the cloud is killed in the middle of a batch, again and again: every row is there once', async () => {
  await venue.settled();
  for (let round = 0; round < (PROVE ? 2 : 1); round++) {
    // A lock of ours holds the transaction where its rows are written and its admissions are not yet: there it is killed.
    const holder = await connectOwner(venue.database.url);
    try {
      await holder.query('BEGIN');
      await holder.query('LOCK TABLE admissions IN ACCESS EXCLUSIVE MODE');
      const before = (await holder.query<{ n: number }>('SELECT count(*)::int AS n FROM ledger_rows')).rows[0]?.n;
      for (const gate of venue.gates) await show(gate, venue.ticket().code);
      await eventually('a batch that waits in its middle', async () => {
        const { rows } = await holder.query(IN_MID_BATCH);
        return rows.length > 0;
      });
      await venue.stack.killCloud();
      expect((await holder.query<{ n: number }>('SELECT count(*)::int AS n FROM ledger_rows')).rows[0]?.n).toBe(before);
      await holder.query('ROLLBACK');
    } finally {
      await holder.close();
    }
    for (const gate of venue.gates) await show(gate, venue.ticket().code);
    await venue.stack.startCloud();
    for (const gate of venue.gates) await show(gate, newCode());
    await venue.settled();
  }
});

test('the cloud is killed at any moment while rows stream in: every row is there once', async () => {
  await venue.settled();
  let coming = true;
  const guests = Promise.all(
    venue.gates.map(async (gate) => {
      while (coming) await show(gate, newCode());
    }),
  );
  for (const afterMs of [400, 650]) {
    await sleep(afterMs);
    await venue.stack.killCloud();
    await venue.stack.startCloud();
  }
  coming = false;
  await guests;
  await venue.settled();
});

test('a gate is killed between commit and acknowledgement: every row arrives once, and the lost passage is unknown, never released again', async () => {
  await venue.settled();
  await venue.stack.stopCloud();
  const [walked, lost] = [venue.ticket(), venue.ticket()];
  await enter(north, walked);
  let wires = await openWires(north);
  await wires.send({ walk: { mode: 'nobody' } });
  expect((await show(north, lost.code)).kind).toBe('granted');
  await eventually('the release', () => wires.releases() === 1);
  wires.close();
  const before = await ownLedger(north);
  expect((await north.fresh()).ledger.backlog).toBeGreaterThanOrEqual(3);
  await north.kill();

  await north.start();
  wires = await openWires(north);
  await north.until(ready, 90_000);
  const again = await show(north, lost.code);
  expect(again).toMatchObject({ kind: 'refused', words: expect.stringContaining('already used') });
  const after = await ownLedger(north);
  expect(difference(before, after.slice(0, before.length))).toBe('');
  const grant = before.findLast(({ kind }) => kind === 'grant');
  const passages = after.filter(({ kind, entry }) => kind === 'passage' && entry['ticket_id'] === lost.ticketId);
  expect(passages.map(({ entry }) => [entry['of'], entry['outcome']])).toEqual([[[grant?.epoch, grant?.seq, grant?.hash], 'unknown']]);

  await venue.stack.startCloud();
  const held = (await venue.settled()).filter(({ gate }) => gate === north.gate);
  expect(difference(before, held.slice(0, before.length))).toBe('');
  expect(
    await venue.ask('SELECT ticket_id, outcome, verdict FROM admissions WHERE ticket_id = ANY($1) ORDER BY seq', [[walked.ticketId, lost.ticketId]]),
  ).toEqual([
    { ticket_id: walked.ticketId, outcome: 'passed', verdict: 'winner' },
    { ticket_id: lost.ticketId, outcome: 'unknown', verdict: 'winner' },
  ]);
  // The other gate has heard of it as well, and the lane was never opened for it again.
  expect((await show(south, lost.code)).kind).toBe('refused');
  expect(wires.releases()).toBe(0);
  wires.close();
});

test('the cloud is away for longer than a gate sends without an answer: the gates still hear of each other', async () => {
  await venue.settled();
  await venue.stack.stopCloud();
  // Each a message of its own, and more of them than may be under way unacknowledged.
  for (let number = 0; number < 2 * MAX_BATCHES_IN_FLIGHT; number++) await show(north, newCode());
  const ticket = venue.ticket();
  await enter(north, ticket);
  // The window slides once its oldest batch has waited RESEND_FIRST_MS: until the broker has the grant, no peer can know of it.
  const [granted] = (await ownLedger(north)).filter(({ kind, entry }) => kind === 'grant' && entry['ticket_id'] === ticket.ticketId);
  await eventually('the other gate to hold the grant', () => holdsGrant(south, granted), 90_000);
  expect(await show(south, ticket.code)).toMatchObject({ kind: 'refused', words: expect.stringContaining('gate north') });
  await venue.stack.startCloud();
  await venue.settled();
});

test('a gate that is restarted with a backlog goes on with its ledger, and sends it', async () => {
  await venue.settled();
  await venue.stack.stopCloud();
  for (let number = 0; number < 4; number++) {
    await enter(south, venue.ticket());
    await show(south, newCode());
  }
  const before = await ownLedger(south);
  const { epoch, backlog } = (await south.fresh()).ledger;
  expect(backlog).toBeGreaterThanOrEqual(12);
  await south.stop();
  expect(south.running()).toBe(false);
  await south.start();
  const now = await south.fresh();
  expect(now.ledger.epoch).toBe(epoch);
  expect(now.ledger.backlog).toBeGreaterThanOrEqual(backlog);
  await enter(south, venue.ticket());
  await venue.stack.startCloud();
  const held = (await venue.settled()).filter(({ gate }) => gate === south.gate);
  expect(difference(before, held.slice(0, before.length))).toBe('');
  expect(new Set(held.map((row) => row.epoch)).size).toBe(1);
  await eventually('the backlog to be acknowledged', async () => (await south.fresh()).ledger.backlog === 0, 90_000);
});
