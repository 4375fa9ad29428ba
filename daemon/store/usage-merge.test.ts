import { join } from 'node:path';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { LedgerVector } from '../../contract/ids.ts';
import { storeFolder } from '../decider/testing/store.ts';
import { countEntries, type SnapshotEntry } from './usage-merge.ts';
import { openUsageStore, type UsageStore, wholeCovered } from './usage-store.ts';

const OWN = 'arena/north-01';
const PEERS = ['arena/north-02', 'arena/north-03'];
const CLOUD = 'arena/cloud';
const LEDGERS = [OWN, ...PEERS, CLOUD];
const EPOCH = 1_700_000_000;
const TICKETS = ['0'.repeat(31) + '1', '0'.repeat(31) + '2', '0'.repeat(31) + '3'];
const EVENT = 'concert';
/** The ticket of parties. A snapshot says how many of a grant's units count, and one outcome for all: of parties only the number is compared. */
const PARTY = 2;

type Row = Record<string, unknown> & { seq: number; kind: string };
type World = Record<string, Row[]>;
type Counted = { gate: string; direction: string; units: number; outcome: string };

/**
 * The reference: from a set of rows (nothing else), what counts. Written plainly and apart from the store: for each grant, for each
 * unit, the strongest word.
 */
function reference(rows: readonly { readonly ledger: string; readonly row: Row }[], ref: string): Counted[] {
  const rank = (row: Row) => (row.kind === 'settlement' ? 5 : ['', 'unknown', 'stuck', 'returned', 'passed'].indexOf(String(row['outcome'])));
  const found: Counted[] = [];
  for (const { ledger, row } of rows) {
    if (row.kind !== 'grant' || row['ticket_ref'] !== ref) continue;
    const words = rows
      .filter(({ ledger: from, row: word }) => {
        const of = word['of'] as unknown[] | undefined;
        if (word.kind === 'passage') return from === ledger && of?.[1] === row.seq;
        return word.kind === 'settlement' && of?.[0] === ledger && of[2] === row.seq;
      })
      .map((word) => word.row);
    const outcomes: string[] = [];
    for (let unit = 1; unit <= (row['units'] as number); unit++) {
      const on = words.filter((word) => word['unit'] === undefined || word['unit'] === unit).sort((a, b) => rank(b) - rank(a) || b.seq - a.seq);
      const outcome = on[0] === undefined ? 'open' : String(on[0]['outcome']);
      if (outcome !== 'returned') outcomes.push(outcome);
    }
    if (outcomes.length === 0) continue;
    const order = ['open', 'unknown', 'stuck', 'passed'];
    found.push({
      gate: ledger,
      direction: String(row['direction']),
      units: outcomes.length,
      outcome: order.findLast((word) => outcomes.includes(word)) ?? 'open',
    });
  }
  return found;
}

const Op = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      op: fc.constant('grant' as const),
      ledger: fc.constantFrom(OWN, ...PEERS),
      ticket: fc.nat(2),
      units: fc.constantFrom(2, 3),
      out: fc.boolean(),
    }),
  },
  {
    weight: 9,
    arbitrary: fc.record({
      op: fc.constant('word' as const),
      pick: fc.nat(),
      unit: fc.nat(2),
      outcome: fc.constantFrom('passed', 'returned', 'stuck', 'unknown'),
    }),
  },
  { weight: 3, arbitrary: fc.record({ op: fc.constant('settle' as const), pick: fc.nat(), outcome: fc.constantFrom('passed', 'returned') }) },
  {
    weight: 8,
    arbitrary: fc.record({
      op: fc.constant('deliver' as const),
      ledger: fc.constantFrom(...PEERS, CLOUD),
      from: fc.nat(30),
      count: fc.integer({ min: 1, max: 8 }),
      next: fc.boolean(),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ op: fc.constant('install' as const), share: fc.array(fc.integer({ min: 0, max: 10 }), { minLength: 4, maxLength: 4 }) }),
  },
  { weight: 2, arbitrary: fc.record({ op: fc.constantFrom('flush' as const, 'restart' as const, 'crash' as const, 'forget' as const) }) },
);

test("any order of own rows, peers' rows, snapshots, restarts and crashes counts exactly what the rows say", { timeout: 120_000 }, () => {
  fc.assert(
    fc.property(fc.array(Op, { minLength: 5, maxLength: 60 }), (ops) => {
      const home = storeFolder('stile-usage-');
      const path = join(home.path, 'usage.sqlite');
      let store: UsageStore = openUsageStore(path, OWN);
      try {
        const world: World = Object.fromEntries(LEDGERS.map((ledger) => [ledger, []]));
        const delivered = new Map(LEDGERS.map((ledger) => [ledger, new Set<number>()]));
        let upto: LedgerVector = {};
        let snapshot = new Map<string, SnapshotEntry[]>();
        const grants: { ledger: string; row: Row; said: Map<number, string> }[] = [];
        const rowsOf = (ledger: string): Row[] => world[ledger] as Row[];
        const append = (ledger: string, row: Omit<Row, 'seq'>): Row => {
          const made = { ...row, seq: rowsOf(ledger).length + 1, ts: new Date(EPOCH * 1000 + grants.length).toISOString() } as unknown as Row;
          rowsOf(ledger).push(made);
          if (ledger === OWN) {
            store.applyOwn(EPOCH, made);
            delivered.get(OWN)?.add(made.seq);
          }
          return made;
        };
        const deliver = (ledger: string, rows: readonly Row[]): void => {
          if (rows.length === 0) return;
          store.applyPeer(ledger, EPOCH, rows);
          for (const row of rows) delivered.get(ledger)?.add(row.seq);
        };
        const countedBy = (ledger: string) => upto[ledger]?.[1] ?? 0;

        for (const op of ops) {
          switch (op.op) {
            case 'grant': {
              const row = append(op.ledger, {
                kind: 'grant',
                event_id: EVENT,
                ticket_id: `t${op.ticket}`,
                ticket_ref: TICKETS[op.ticket],
                direction: op.out ? 'out' : 'in',
                units: op.ticket === PARTY ? op.units : 1,
              });
              grants.push({ ledger: op.ledger, row, said: new Map() });
              break;
            }
            case 'word': {
              const grant = grants[op.pick % Math.max(1, grants.length)];
              if (grant === undefined) break;
              const unit = (op.unit % (grant.row['units'] as number)) + 1;
              // A gate says passed or returned of a unit at most once, and nothing after it.
              if (['passed', 'returned'].includes(grant.said.get(unit) ?? '')) break;
              grant.said.set(unit, op.outcome);
              const { event_id, ticket_id, ticket_ref, direction } = grant.row;
              append(grant.ledger, { kind: 'passage', of: [EPOCH, grant.row.seq], event_id, ticket_id, ticket_ref, direction, unit, outcome: op.outcome });
              break;
            }
            case 'settle': {
              // Operators settle what one guest did; a party's units are settled by what the gate saw.
              const single = grants.filter((one) => one.row['units'] === 1);
              const grant = single[op.pick % Math.max(1, single.length)];
              if (grant === undefined) break;
              const { event_id, ticket_id, ticket_ref, direction } = grant.row;
              append(CLOUD, {
                kind: 'settlement',
                of: [grant.ledger, EPOCH, grant.row.seq],
                event_id,
                ticket_id,
                ticket_ref,
                direction,
                outcome: op.outcome,
                actor: 'op',
                reason: 'seen',
              });
              break;
            }
            case 'deliver': {
              const from = op.next ? (delivered.get(op.ledger)?.size ?? 0) : op.from;
              deliver(op.ledger, rowsOf(op.ledger).slice(from, from + op.count));
              break;
            }
            case 'install': {
              // The cloud counts a prefix of every ledger; an entry can only be counted with the grant's own row.
              const next = Object.fromEntries(
                LEDGERS.map((ledger, n) => {
                  const most = rowsOf(ledger).length;
                  return [ledger, [EPOCH, Math.max(countedBy(ledger), Math.floor((most * (op.share[n] ?? 0)) / 10))]];
                }),
              ) as LedgerVector;
              // A settlement that the snapshot counts is of a grant that it counts.
              const beyond = rowsOf(CLOUD).find(({ of }) => (of as [string, number, number])[2] > (next[(of as [string, number, number])[0]]?.[1] ?? 0));
              if (beyond !== undefined) next[CLOUD] = [EPOCH, Math.min(next[CLOUD]?.[1] ?? 0, beyond.seq - 1)];
              upto = next;
              const prefix = LEDGERS.flatMap((ledger) =>
                rowsOf(ledger)
                  .slice(0, countedBy(ledger))
                  .map((row) => ({ ledger, row })),
              );
              snapshot = new Map(
                TICKETS.map((ref) => [
                  ref,
                  prefix
                    .filter(({ row }) => row.kind === 'grant' && row['ticket_ref'] === ref)
                    .flatMap(({ ledger, row }) => {
                      const [sum] = reference(
                        prefix.filter((one) => one.row === row || one.row.kind !== 'grant'),
                        ref,
                      ).filter((one) => one.gate === ledger);
                      return sum === undefined
                        ? []
                        : [
                            {
                              gate: ledger,
                              epoch: EPOCH,
                              seq: row.seq,
                              atMs: 0,
                              direction: sum.direction as 'in',
                              units: sum.units,
                              outcome: sum.outcome as 'open',
                            },
                          ];
                    }),
                ]),
              );
              store.countFrom([upto], (ledger) => ledger === OWN);
              break;
            }
            case 'flush':
              store.flush();
              break;
            case 'forget':
              while (store.forget((state) => wholeCovered(upto, state))) {
                /* to the end */
              }
              break;
            default: {
              if (op.op === 'restart') store.close();
              else store.abandon();
              store = openUsageStore(path, OWN);
              // As the decider does: own rows again from the ledger, the peers' from where the vector says.
              for (const row of rowsOf(OWN)) if (row.seq > store.ownMark(EPOCH)) store.applyOwn(EPOCH, row);
              for (const ledger of [...PEERS, CLOUD])
                deliver(
                  ledger,
                  rowsOf(ledger).filter((row) => row.seq > (store.vector()[ledger]?.[1] ?? 0)),
                );
            }
          }
          const known = LEDGERS.flatMap((ledger) =>
            rowsOf(ledger)
              .filter((row) => row.seq <= countedBy(ledger) || delivered.get(ledger)?.has(row.seq))
              .map((row) => ({ ledger, row })),
          );
          for (const ref of TICKETS) {
            const counted = countEntries(upto, snapshot.get(ref) ?? [], store.ofTicket(ref)).map(({ gate, direction, units, outcome }) => ({
              gate,
              direction,
              units,
              outcome,
            }));
            // A grant whose own row has not come yet is known by its words alone: the reference sees it once it has.
            const orphans = known.some(
              ({ ledger, row }) =>
                row['ticket_ref'] === ref &&
                row.kind !== 'grant' &&
                !known.some(
                  (one) =>
                    one.row.kind === 'grant' &&
                    one.ledger === (row.kind === 'passage' ? ledger : (row['of'] as string[])[0]) &&
                    one.row.seq === (row['of'] as number[]).at(-1),
                ),
            );
            if (orphans) continue;
            const sort = (list: readonly Counted[]) => list.map((one) => JSON.stringify(ref === TICKETS[PARTY] ? { ...one, outcome: '' } : one)).sort();
            expect(sort(counted)).toEqual(sort(reference(known, ref)));
          }
        }
      } finally {
        store.close();
        home.remove();
      }
    }),
    { numRuns: process.env['STILE_PROVE'] === '1' ? 300 : 50 },
  );
});

test('a passage that comes alone describes its grant; a settlement after it has the last word', () => {
  const home = storeFolder('stile-usage-');
  const store = openUsageStore(join(home.path, 'usage.sqlite'), OWN);
  const about = { event_id: EVENT, ticket_id: 't', ticket_ref: TICKETS[0], direction: 'in', ts: '2026-06-01T18:00:00.000Z' };
  const count = () => countEntries({}, [], store.ofTicket(TICKETS[0] as string));
  expect(store.applyPeer(PEERS[0] as string, EPOCH, [{ seq: 4, kind: 'passage', of: [EPOCH, 3], unit: 1, outcome: 'passed', ...about }])).toEqual({
    applied: 1,
    gap: true,
  });
  expect(count()).toMatchObject([{ gate: PEERS[0], units: 1, outcome: 'passed' }]);
  store.applyPeer(CLOUD, EPOCH, [{ seq: 1, kind: 'settlement', of: [PEERS[0], EPOCH, 3], outcome: 'returned', ...about }]);
  expect(count()).toEqual([]);
  store.applyPeer(
    PEERS[0] as string,
    EPOCH,
    [1, 2].map((seq) => ({ seq, kind: 'clock' })),
  );
  expect(store.gaps()).toBe(true);
  store.applyPeer(PEERS[0] as string, EPOCH, [
    { seq: 3, kind: 'grant', units: 1, ...about },
    { seq: 4, kind: 'passage', of: [EPOCH, 3], unit: 1, outcome: 'passed', ...about },
  ]);
  expect(store.gaps()).toBe(false);
  expect(count()).toEqual([]);
  expect(store.vector()).toEqual({ [PEERS[0] as string]: [EPOCH, 4], [CLOUD]: [EPOCH, 1] });
  store.close();
  home.remove();
});

test('a settlement that names no ticket finds its grant, whichever came first', () => {
  for (const order of [
    ['grant', 'settlement'],
    ['settlement', 'grant'],
  ]) {
    const home = storeFolder('stile-usage-');
    const store = openUsageStore(join(home.path, 'usage.sqlite'), OWN);
    for (const kind of order) {
      if (kind === 'grant')
        store.applyPeer(PEERS[0] as string, EPOCH, [
          { seq: 1, kind: 'grant', units: 2, event_id: EVENT, ticket_id: 't', ticket_ref: TICKETS[0], direction: 'in', ts: '2026-06-01T18:00:00.000Z' },
        ]);
      else store.applyPeer(CLOUD, EPOCH, [{ seq: 1, kind: 'settlement', of: [PEERS[0], EPOCH, 1], outcome: 'returned', actor: 'op', reason: 'x' }]);
      store.flush();
    }
    expect(countEntries({}, [], store.ofTicket(TICKETS[0] as string))).toEqual([]);
    store.close();
    home.remove();
  }
});

test('a manifest of another event that counts less opens a gap until the rows between were read', () => {
  const home = storeFolder('stile-usage-');
  const store = openUsageStore(join(home.path, 'usage.sqlite'), OWN);
  const peer = PEERS[0] as string;
  const never = () => false;
  store.countFrom([{ [peer]: [EPOCH, 100] }], never);
  expect(store.applyPeer(peer, EPOCH, [{ seq: 101, kind: 'clock' }])).toEqual({ applied: 1, gap: false });
  store.countFrom([{ [peer]: [EPOCH, 100] }, { [peer]: [EPOCH, 60] }], never);
  expect(store.gaps()).toBe(true);
  expect(store.vector()).toEqual({ [peer]: [EPOCH, 60] });
  store.applyPeer(
    peer,
    EPOCH,
    Array.from({ length: 41 }, (_, n) => ({ seq: 61 + n, kind: 'clock' })),
  );
  expect(store.gaps()).toBe(false);
  store.countFrom([{ [peer]: [EPOCH, 100] }, {}], never);
  expect(store.vector()).toEqual({ [peer]: [EPOCH, 0] });
  store.excuse();
  expect(store.gaps()).toBe(false);
  store.close();
  home.remove();
});

test('a settlement below the snapshot still outranks what the gate says of its units above it', () => {
  const word = (ledger: string, seq: number, unit: number | null, outcome: 'passed' | 'returned') => ({
    ledger,
    epoch: EPOCH,
    seq,
    hash: '',
    again: null,
    unit,
    outcome,
    settled: ledger === CLOUD,
  });
  const key = { gate: OWN, epoch: EPOCH, seq: 1, direction: 'in', atMs: 1_000, units: 3 } as const;
  const words = [word(OWN, 2, 1, 'passed'), word(CLOUD, 1, null, 'passed'), word(OWN, 3, 2, 'returned'), word(OWN, 4, 3, 'returned')];
  const state = { ...key, hash: '', again: null, verdict: null, known: true, eventId: EVENT, ticketId: 't-3', ticketRef: TICKETS[PARTY] as string, words };
  const upto: LedgerVector = { [OWN]: [EPOCH, 2], [CLOUD]: [EPOCH, 1] };
  expect(countEntries(upto, [{ ...key, outcome: 'passed' } as SnapshotEntry], [state])).toMatchObject([{ units: 3, outcome: 'passed' }]);
  // Where the cloud had not spoken, the two are given back.
  const unsettled = { ...state, words: words.filter(({ settled }) => !settled) };
  expect(countEntries(upto, [{ ...key, outcome: 'passed' } as SnapshotEntry], [unsettled])).toMatchObject([{ units: 1, outcome: 'passed' }]);
});

test('a grant that the cloud calls foreign, or that a person set aside, spends nothing here, until that is withdrawn', () => {
  const home = storeFolder();
  const store = openUsageStore(join(home.path, 'usage.sqlite'), OWN);
  const [peer, ref] = [PEERS[0] as string, TICKETS[0] as string];
  const hash = 'a'.repeat(64);
  const grant = { seq: 1, kind: 'grant', hash, event_id: EVENT, ticket_id: 't-1', ticket_ref: ref, direction: 'in', units: 1 };
  const verdict = (seq: number, what: string) => ({
    seq,
    kind: 'conflict',
    hash: `${seq}`.repeat(64),
    of: [peer, EPOCH, 1, hash],
    verdict: what,
    cause: 'foreign',
    ticket_ref: ref,
  });
  const entries = (upto: LedgerVector = {}, snapshot: readonly SnapshotEntry[] = []) => countEntries(upto, snapshot, store.ofTicket(ref)).length;
  // The verdict may come before the grant that it names.
  store.applyPeer(CLOUD, EPOCH, [verdict(1, 'foreign')]);
  expect(entries()).toBe(0);
  store.applyPeer(peer, EPOCH, [grant]);
  expect(entries()).toBe(0);
  const listed: SnapshotEntry = { gate: peer, epoch: EPOCH, seq: 1, atMs: 1, direction: 'in', units: 1, outcome: 'open' };
  expect(entries({ [peer]: [EPOCH, 1] }, [listed])).toBe(0);
  store.flush();
  store.applyPeer(CLOUD, EPOCH, [verdict(2, 'withdrawn')]);
  expect(entries()).toBe(1);
  // A manifest of before does not list it, and counts its row all the same.
  expect(entries({ [peer]: [EPOCH, 1], [CLOUD]: [EPOCH, 1] })).toBe(1);
  store.applyPeer(CLOUD, EPOCH, [verdict(3, 'set_aside'), verdict(4, 'pending')]);
  expect(entries()).toBe(0);
  // No other ledger says so, and no site of another.
  store.applyPeer(CLOUD, EPOCH, [verdict(5, 'withdrawn')]);
  store.applyPeer(PEERS[1] as string, EPOCH, [verdict(1, 'foreign')]);
  expect(entries()).toBe(1);
  store.close();
  home.remove();
});

test('two rows of one number with different content are two admissions; one that is written again is one', () => {
  const home = storeFolder();
  const store = openUsageStore(join(home.path, 'usage.sqlite'), OWN);
  const [peer, ref] = [PEERS[0] as string, TICKETS[0] as string];
  const grant = (hash: string, more: object = {}) => ({
    seq: 1,
    kind: 'grant',
    hash,
    event_id: EVENT,
    ticket_id: 't-1',
    ticket_ref: ref,
    direction: 'in',
    units: 1,
    ...more,
  });
  const [mine, other] = ['a'.repeat(64), 'b'.repeat(64)];
  const counted = (upto: LedgerVector = {}) => countEntries(upto, [], store.ofTicket(ref)).length;
  store.applyPeer(peer, EPOCH, [grant(mine)]);
  store.applyPeer(peer, EPOCH, [grant(other), grant(other)]);
  expect(counted()).toBe(2);
  store.applyPeer(peer, EPOCH + 9, [grant('c'.repeat(64), { again: [EPOCH, 1, other] })]);
  store.flush();
  expect(counted()).toBe(2);
  // The word of a passage goes to the one that it names; by number alone, to that of its ticket.
  store.applyPeer(peer, EPOCH, [{ seq: 2, kind: 'passage', hash: 'd'.repeat(64), of: [EPOCH, 1, other], ticket_ref: ref, unit: 1, outcome: 'returned' }]);
  expect(counted()).toBe(1);
  // A number proves nothing of a row that was written again: it is counted with its second row.
  expect(counted({ [peer]: [EPOCH, 2] })).toBe(0);
  store.applyPeer(peer, EPOCH, [{ ...grant('e'.repeat(64)), seq: 7, ticket_ref: ref }]);
  store.applyPeer(peer, EPOCH + 9, [{ ...grant('f'.repeat(64), { again: [EPOCH, 7, '9'.repeat(64)] }), seq: 2 }]);
  expect(counted({ [peer]: [EPOCH, 7] })).toBe(1);
  expect(counted({ [peer]: [EPOCH + 9, 2] })).toBe(0);
  store.close();
  home.remove();
});
