/** Rows as columns: PostgreSQL reads what was written, and both doors, columns and JSON, give the same tables. */
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { entryText } from '../../contract/hash-chain.ts';
import { type FreshDatabase, freshDatabase, makeVenue, type TestTicket, type Venue } from '../../testkit/database.ts';
import { testLedger } from '../../testkit/ledgers.ts';
import { createDatabase } from '../db/database.ts';
import { reconcile } from './reconcile.ts';
import { type LedgerRow, readRow } from './row.ts';
import { columnsOf } from './row-arrays.ts';

let fresh: FreshDatabase;
beforeAll(async () => {
  fresh = await freshDatabase();
});
afterAll(async () => {
  await fresh.drop();
});

const TYPES =
  `text bigint bigint bytea text boolean text timestamptz text float8 float8 float8 text text bytea text integer bigint text bigint bigint integer text text bigint bigint bytea bytea boolean`.split(
    ' ',
  );
/** Reads back the columns from PostgreSQL, as records. */
async function readBack(rows: readonly LedgerRow[]): Promise<unknown[]> {
  const names =
    'gate epoch seq hash kind readable entry ts boot_id boottime_ms offset_ms bound_ms event_id ticket_id ticket_ref direction units manifest_version of_gate of_epoch of_seq unit outcome again_gate again_epoch again_seq again_hash of_hash chained'.split(
      ' ',
    );
  const sql = `SELECT to_jsonb(r) || jsonb_build_object('hash', encode(r.hash, 'hex'), 'ticket_ref', encode(r.ticket_ref, 'hex'), 'ts', extract(epoch FROM r.ts) * 1000) AS r FROM unnest(${TYPES.map((type, index) => `$${index + 1}::${type}[]`).join(', ')}) AS r (${names.join(', ')})`;
  const answer = await fresh.database.asOwner((client) => client.query<{ r: unknown }>(sql, columnsOf(rows)));
  return answer.rows.map(({ r }) => r);
}

const hex = (bytes: number) => fc.uint8Array({ minLength: bytes, maxLength: bytes }).map((value) => Buffer.from(value).toString('hex'));
const id = fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9._:@-]{0,20}$/);
const place = fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER });
const common = {
  seq: place,
  hash: hex(32),
  ts: fc.integer({ min: 0, max: 4_102_444_800_000 }).map((ms) => new Date(ms).toISOString()),
  boot_id: id,
  boottime_ms: fc.double({ min: 0, max: 1e12, noNaN: true }),
  clock_offset_ms: fc.option(fc.double({ min: -1e12, max: 9e12, noNaN: true }), { nil: undefined }),
  clock_bound_ms: fc.option(fc.double({ min: 0, max: 1e6, noNaN: true }), { nil: undefined }),
};
const ticket = { event_id: id, ticket_id: id, ticket_ref: hex(16), direction: fc.constantFrom('in', 'out') };
const entry = fc.oneof(
  fc.record({
    ...common,
    ...ticket,
    kind: fc.constant('grant'),
    type: fc.constant('first_entry'),
    units: fc.integer({ min: 1, max: 9 }),
    medium: fc.constant('opaque'),
    manifest_version: fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER }),
    online: fc.boolean(),
    latency_us: fc.nat(),
    seen: fc.constant({}),
  }),
  fc.record({
    ...common,
    ...ticket,
    kind: fc.constant('passage'),
    outcome: fc.constantFrom('passed', 'returned', 'free'),
    of: fc.option(fc.tuple(place, place), { nil: undefined }),
    unit: fc.option(fc.integer({ min: 1, max: 9 }), { nil: undefined }),
  }),
  fc.record({
    ...common,
    ...ticket,
    kind: fc.constant('settlement'),
    outcome: fc.constantFrom('passed', 'returned'),
    of: fc.tuple(fc.constant('arena/north'), place, place),
    actor: id,
    reason: fc.string({ maxLength: 50, unit: 'grapheme' }),
  }),
  // Of no kind that is known: kept, and says nothing.
  fc.record({ seq: place, hash: hex(32), kind: fc.string({ minLength: 1, maxLength: 32 }), text: fc.string({ unit: 'grapheme' }) }),
);

test('PostgreSQL reads the columns as they were written', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(entry, { minLength: 1, maxLength: 20 }), async (entries) => {
      const rows = entries.map((each) => readRow('arena/north', 1_790_000_000, JSON.parse(JSON.stringify(each))) as LedgerRow);
      const answer = await readBack(rows);
      expect(answer).toEqual(
        rows.map(({ gate, epoch, entry: whole, known }) => {
          const k = (known ?? {}) as Record<string, unknown>;
          const of = (k['of'] ?? []) as unknown[];
          // An offset that puts its row outside of these years measured nothing.
          const placed = (k['clock_offset_ms'] as number) + (k['boottime_ms'] as number);
          const timed = k['clock_bound_ms'] !== undefined && placed >= Date.UTC(2000, 0) && placed <= Date.UTC(2200, 0);
          const grant = k['kind'] === 'grant';
          return {
            gate,
            epoch,
            seq: whole['seq'],
            hash: whole['hash'],
            kind: /^[a-z_]{1,32}$/.test(whole['kind'] as string) ? whole['kind'] : 'unknown',
            readable: known !== null,
            entry: entryText(whole),
            ts: k['ts'] === undefined ? null : Date.parse(k['ts'] as string),
            boot_id: k['boot_id'] ?? null,
            boottime_ms: k['boottime_ms'] ?? null,
            offset_ms: timed ? k['clock_offset_ms'] : null,
            bound_ms: timed ? k['clock_bound_ms'] : null,
            event_id: k['event_id'] ?? null,
            ticket_id: k['ticket_id'] ?? null,
            ticket_ref: grant ? k['ticket_ref'] : null,
            direction: k['direction'] ?? null,
            units: grant ? k['units'] : null,
            manifest_version: grant ? k['manifest_version'] : null,
            of_gate: of.length === 3 ? of[0] : null,
            of_epoch: of.at(-2) ?? null,
            of_seq: of.at(-1) ?? null,
            unit: k['unit'] ?? null,
            outcome: k['outcome'] ?? null,
            again_gate: null,
            again_epoch: null,
            again_seq: null,
            again_hash: null,
            of_hash: null,
            chained: null,
          };
        }),
      );
    }),
    { numRuns: 100 },
  );
});

test('rows come to the same by columns and by JSON, in any order within the call', async () => {
  const results: unknown[] = [];
  for (const door of ['columns', 'json'] as const) {
    const venue = await makeVenue(fresh.url, { tickets: 4 });
    const rows = story(venue).reverse();
    results.push(
      await fresh.database.withTenant(venue.tenantId, async (client) => {
        if (door === 'columns') await reconcile(client, rows);
        else await client.query('SELECT reconcile_ledger($1::jsonb)', [JSON.stringify(rows.map(asJson))]);
        const read = async (sql: string) => JSON.parse(JSON.stringify((await client.query(sql)).rows).replaceAll(venue.site, 'site')) as unknown;
        return [
          await read('SELECT gate, epoch, seq, kind, readable, at, event_id, ticket_id FROM ledger_rows ORDER BY 1, 2, 3'),
          await read(
            'SELECT gate, seq, ticket_id, direction, units, at_low, at, at_high, placed, word_1, words, outcome, verdict, cause FROM admissions ORDER BY 1, 2',
          ),
          await read('SELECT ticket_id, status, scan_count, first_scanned_at FROM tickets ORDER BY 1'),
          await read('SELECT ticket_id, loser_gate, winner_gate, cause FROM conflicts ORDER BY 1, 2'),
          await read('SELECT gate, grants, winners, excess, annulled, entered, uncertain, free_passages FROM gate_counts ORDER BY 1'),
        ];
      }),
    );
  }
  expect(results[1]).toEqual(results[0]);
  expect((results[0] as unknown[][][])[3]).toHaveLength(1);
});

const YEAR_MS = 366 * 86_400_000;
const OFFSET_MS = Date.UTC(2026, 4);
test.each([
  ['as measured', 1_000, OFFSET_MS, 20, [1_000, OFFSET_MS, 20]],
  ['with the widest bound', 1_000, OFFSET_MS, YEAR_MS, [1_000, OFFSET_MS, YEAR_MS]],
  ['with a wider bound', 1_000, OFFSET_MS, YEAR_MS + 1, [1_000, null, null]],
  ['without its bound', 1_000, OFFSET_MS, undefined, [1_000, null, null]],
  ['as a bound alone', 1_000, undefined, 20, [1_000, null, null]],
  ['at the earliest time', 1_000, Date.UTC(2000, 0) - 1_000, 20, [1_000, Date.UTC(2000, 0) - 1_000, 20]],
  ['before the earliest time', 1_000, Date.UTC(2000, 0) - 1_001, 20, [1_000, null, null]],
  ['at the latest time', 1_000, Date.UTC(2200, 0) - 1_000, 20, [1_000, Date.UTC(2200, 0) - 1_000, 20]],
  ['after the latest time', 1_000, Date.UTC(2200, 0) - 999, 20, [1_000, null, null]],
  ['in a boot of a hundred years', 100 * YEAR_MS, OFFSET_MS - 100 * YEAR_MS, 20, [100 * YEAR_MS, OFFSET_MS - 100 * YEAR_MS, 20]],
  ['in a longer boot', 100 * YEAR_MS + 1, OFFSET_MS - 100 * YEAR_MS, 20, [null, null, null]],
])('a clock that a row tells %s is taken or counts as none, whole', async (_name, boottime_ms, clock_offset_ms, clock_bound_ms, expected) => {
  const told = { boottime_ms, ...(clock_offset_ms === undefined ? {} : { clock_offset_ms }), ...(clock_bound_ms === undefined ? {} : { clock_bound_ms }) };
  const entry = { seq: 1, hash: '0'.repeat(64), kind: 'fault', what: 'x', detail: '', boot_id: 'b', ts: '2026-05-01T00:00:00.000Z', ...told };
  const [read] = (await readBack([readRow('arena/north', 1, entry) as LedgerRow])) as [{ boottime_ms: unknown; offset_ms: unknown; bound_ms: unknown }];
  expect([read.boottime_ms, read.offset_ms, read.bound_ms]).toEqual(expected);
});

function story(venue: Venue): LedgerRow[] {
  const [north, south] = [testLedger(venue, 0), testLedger(venue, 1)];
  const first = north.grant(venue.tickets[0] as TestTicket, 1_000);
  north.passage(first, 2_000, 'passed');
  const party = north.grant(venue.tickets[1] as TestTicket, 3_000, { units: 3 });
  north.passage(party, 3_500, 'returned', { unit: 2 });
  north.passage(north.grant(venue.tickets[2] as TestTicket, 4_000), 4_500, 'returned');
  north.add('passage', 5_000, { direction: 'in', outcome: 'free', event_id: venue.eventId });
  north.reboot('without-a-clock', null);
  north.grant(venue.tickets[3] as TestTicket, 10);
  south.grant(venue.tickets[0] as TestTicket, 9_000);
  return [...north.rows(), ...south.rows()];
}

/** As somebody would write it by hand for reconcile_ledger. */
function asJson(row: LedgerRow): Record<string, unknown> {
  const { hash, ...entry } = row.entry;
  const { of, clock_offset_ms, clock_bound_ms, ...fields } = entry as { of?: [number, number]; clock_offset_ms?: number; clock_bound_ms?: number };
  return {
    ...fields,
    gate: row.gate,
    epoch: row.epoch,
    hash,
    readable: true,
    entry: entryText(entry),
    offset_ms: clock_offset_ms,
    bound_ms: clock_bound_ms,
    of_epoch: of?.[0],
    of_seq: of?.[1],
  };
}

/** Rows that PostgreSQL has read so far of the tables that a batch touches, by index or not. */
const READ = `SELECT relname, (coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::integer AS n FROM pg_stat_user_tables
  WHERE relname IN ('tickets', 'ticket_usage', 'admissions', 'boots', 'ledger_epochs') OR relname LIKE 'ledger\\_lines\\_%'`;

test('plans that were made when there was nothing serve a large event: a batch reads few rows beside its own', async () => {
  const tickets = 3_000;
  const alone = await freshDatabase();
  const one = createDatabase({ url: alone.url, maxConnections: 1 });
  try {
    const take = async (venue: Venue, rows: readonly LedgerRow[]) => one.withTenant(venue.tenantId, (client) => reconcile(client, rows));
    const small = await makeVenue(alone.url, { tickets: 2 });
    const first = testLedger(small, 0);
    first.passage(first.grant(small.tickets[0] as TestTicket, 1_000), 1_500, 'passed');
    for (const row of first.rows()) await take(small, [row]);
    const large = await makeVenue(alone.url, { tickets });
    const [north, south] = [testLedger(large, 0), testLedger(large, 1)];
    for (const [index, ticket] of large.tickets.entries()) north.passage(north.grant(ticket, index * 1_000), index * 1_000 + 500, 'passed');
    for (let index = 0; index < 100; index++) south.grant(large.tickets[index] as TestTicket, 5_000_000 + index);
    const counted = async () =>
      one.asOwner(async (client) => {
        await client.query('SELECT pg_stat_force_next_flush()');
        return (await client.query<{ n: number }>(READ)).rows.reduce((sum, { n }) => sum + n, 0);
      });
    for (const [what, rows, most] of [
      ['first entries', north.rows().slice(0, 1_000), 8],
      ['their second grants', south.rows(), 40],
      ['the rest', north.rows().slice(1_000, 3_000), 8],
    ] as const) {
      await counted();
      const before = await counted();
      await take(large, rows);
      await counted();
      const perRow = ((await counted()) - before) / rows.length;
      expect([what, perRow < most ? 'few' : perRow]).toEqual([what, 'few']);
    }
  } finally {
    await one.close();
    await alone.drop();
  }
});

test('X4: a lone first entry and its passage are judged without a replay', async () => {
  const alone = await freshDatabase();
  try {
    await alone.database.asOwner((client) => client.query(`ALTER DATABASE ${new URL(alone.url).pathname.slice(1)} SET track_functions = 'pl'`));
    const one = createDatabase({ url: alone.url, maxConnections: 1 });
    try {
      const venue = await makeVenue(alone.url, { tickets: 11 });
      const ledger = testLedger(venue, 0);
      for (const [index, ticket] of venue.tickets.entries()) ledger.passage(ledger.grant(ticket, index * 1_000), index * 1_000 + 500, 'passed');
      const [first, ...others] = ledger.rows();
      const take = (row: LedgerRow) => one.withTenant(venue.tenantId, (client) => reconcile(client, [row]));
      await take(first as LedgerRow);
      const calls = async () => {
        await one.asOwner((client) => client.query('SELECT pg_stat_force_next_flush()'));
        const { rows } = await alone.database.asOwner((client) =>
          client.query<{ funcname: string; calls: number }>(
            "SELECT funcname, calls FROM pg_stat_user_functions WHERE funcname IN ('reconcile_ordinary_row', 'record_boots', 'store_verdicts') ORDER BY 1",
          ),
        );
        return Object.fromEntries(rows.map(({ funcname, calls: n }) => [funcname, n]));
      };
      await calls();
      const before = await calls();
      for (const row of others) await take(row);
      await calls();
      expect(await calls()).toEqual({ ...before, reconcile_ordinary_row: others.length + 1 });
    } finally {
      await one.close();
    }
  } finally {
    await alone.drop();
  }
});
