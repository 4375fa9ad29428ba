/** Every kind of ledger row × everybody who may write one, about a grant of another gate (FAULTS M1): whose word changes it? */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { reconcile } from '../../cloud/reconcile/reconcile.ts';
import type { LedgerRow } from '../../cloud/reconcile/row.ts';
import { LEDGER_KINDS, LedgerEntry, type LedgerEntryKind } from '../../contract/ledger.ts';
import { type FreshDatabase, freshDatabase, makeVenue, type TestTicket, type Venue } from '../../testkit/database.ts';
import { type TestEntry, type TestLedger, testLedger } from '../../testkit/ledgers.ts';

const WRITERS = ['itself', 'sibling', 'elsewhere', 'stranger', 'cloud', 'cloud elsewhere', "strangers' cloud"] as const;
type Writer = (typeof WRITERS)[number];
const LEDGERS: Readonly<Record<Writer, string>> = {
  itself: 'arena/north',
  sibling: 'arena/south',
  elsewhere: 'stadium/north',
  stranger: 'club/north',
  cloud: 'arena/cloud',
  'cloud elsewhere': 'stadium/cloud',
  "strangers' cloud": 'club/cloud',
};
/** A row names a grant of its own ledger by two numbers, any other by three. */
const FORMS = ['of two', 'of three'] as const;
/** Closed by default: what does not stand here changes no grant. */
const COUNTS = ['passage of two by itself', 'settlement of three by cloud'];

let fresh: FreshDatabase;
let ours: Venue;
let theirs: Venue;
beforeEach(async () => {
  fresh = await freshDatabase();
  const tickets = LEDGER_KINDS.length * WRITERS.length * FORMS.length;
  ours = await makeVenue(fresh.url, { site: 'arena', gates: ['north', 'south'], tickets });
  theirs = await makeVenue(fresh.url, { site: 'club', gates: ['north'], tickets });
  await fresh.database.withTenant(ours.tenantId, (client) =>
    client.query("INSERT INTO sites (tenant_id, site_id, name) VALUES ($1, 'stadium', 'stadium')", [ours.tenantId]),
  );
});
afterEach(() => fresh?.drop());

const grants = async () =>
  Object.fromEntries(
    (
      await fresh.database.withTenant(ours.tenantId, (client) =>
        client.query<{ ticket_id: string; word: string }>(
          "SELECT ticket_id, concat_ws(' ', granted, outcome, verdict, units_used, units_uncertain) AS word FROM admissions WHERE gate = 'arena/north' AND seq <= $1",
          [ours.tickets.length],
        ),
      )
    ).rows.map(({ ticket_id, word }) => [ticket_id, word]),
  );

/** A row of this kind with everything that rows of any kind say, about this grant. */
function about(ledger: TestLedger, kind: LedgerEntryKind, grant: TestEntry, three: boolean): TestEntry {
  const atMs = 3_600_000 + ledger.entries.length * 10;
  return ledger.add(kind, atMs, {
    of: three ? ['arena/north', 1, grant.seq] : [1, grant.seq],
    ...Object.fromEntries(['event_id', 'ticket_id', 'ticket_ref'].map((name) => [name, grant[name]])),
    ...{ direction: 'in', unit: 1, units: 1, outcome: 'returned', actor: 'anna', reason: kind === 'refusal' ? 'rules' : 'x', explanation: 'x', action: 'open' },
    ...{ verdict: 'excess', cause: 'already_redeemed', from: 'controlled', to: 'free', what: 'test', detail: 'x', type: 'reentry', medium: 'opaque' },
    ...{ manifest_version: 1, online: true, latency_us: 1, seen: {} },
  });
}

/** The reader of rows and the database each look for themselves: whoever takes the check out of one of them is found here. */
const LAYERS = { 'the cloud': (row: LedgerRow): LedgerRow => row, 'the database alone': believed } as const;
function believed(row: LedgerRow): LedgerRow {
  return { ...row, known: LedgerEntry.safeParse(row.entry).data ?? null };
}

test.each(Object.entries(LAYERS))('M1: of all rows only its own gate’s passage and its own site’s cloud settle a grant: %s', async (_layer, read) => {
  const north = testLedger(ours, 0);
  const ledgers = Object.fromEntries(
    WRITERS.map((writer) => [writer, writer === 'itself' ? north : testLedger({ ...ours, gates: [LEDGERS[writer]] }, 0)]),
  ) as Record<Writer, TestLedger>;
  const tries = LEDGER_KINDS.flatMap((kind) => WRITERS.flatMap((writer) => FORMS.map((form) => ({ kind, writer, form })))).map((one, index) => ({
    ...one,
    ticket: ours.tickets[index] as TestTicket,
    grant: north.grant(ours.tickets[index] as TestTicket, index * 1000),
  }));
  const store = (venue: Venue, rows: LedgerRow[]) => fresh.database.withTenant(venue.tenantId, (client) => reconcile(client, rows.map(read)));
  await store(ours, north.rows());
  const given = north.entries.length;
  const before = await grants();
  expect(Object.keys(before)).toHaveLength(tries.length);
  expect(new Set(Object.values(before)).size).toBe(1);
  for (const { kind, writer, form, grant } of tries) about(ledgers[writer], kind, grant, form === 'of three');
  for (const writer of WRITERS) {
    const rows = writer === 'itself' ? north.rows(north.entries.slice(given)) : ledgers[writer].rows();
    await store(LEDGERS[writer].startsWith('club/') ? theirs : ours, rows);
  }
  const after = await grants();
  const changed = tries
    .filter(({ ticket }) => after[ticket.ticketId] !== before[ticket.ticketId])
    .map(({ kind, writer, form }) => `${kind} ${form} by ${writer}`);
  expect(changed.sort()).toEqual(COUNTS);
  // The cloud's verdicts are its own: a row that says "conflict" makes none.
  const { rows: found } = await fresh.database.withTenant(ours.tenantId, (client) => client.query<{ ticket_id: string }>('SELECT ticket_id FROM conflicts'));
  const other = tries.filter(({ kind, ticket }) => kind !== 'grant' && found.some(({ ticket_id }) => ticket_id === ticket.ticketId));
  expect(other.map(({ kind, writer, form }) => `${kind} ${form} by ${writer}`)).toEqual([]);
});
