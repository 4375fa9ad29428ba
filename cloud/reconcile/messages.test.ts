/** Rows are kept by message, compressed: however a ledger is cut, and in whatever order it arrives, its rows are the same bytes with the same proofs. FIGURES: prints sizes. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { entryHash, entryText, firstPredecessor } from '../../contract/hash-chain.ts';
import { type FreshDatabase, freshDatabase, makeVenue, type TestTicket, type Venue } from '../../testkit/database.ts';
import { type TestLedger, testLedger } from '../../testkit/ledgers.ts';
import { connectOwner } from '../db/database.ts';
import { acksFor } from './acks.ts';
import { siteLedger } from './queries.ts';
import { reconcile, sha256 } from './reconcile.ts';
import type { LedgerRow } from './row.ts';

const ROWS = 2_000;
const CUTS = 1_000;
/** Messages of one transaction. */
const TOGETHER = 20;

let fresh: FreshDatabase;
beforeAll(async () => {
  fresh = await freshDatabase();
});
afterAll(() => fresh.drop());

/** Numbers below `below`, the same for each seed. */
function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

function longLedger(venue: Venue): TestLedger {
  const ledger = testLedger(venue, 0);
  for (let n = 0; ledger.entries.length < ROWS; n++) {
    const ticket = venue.tickets[n % venue.tickets.length] as TestTicket;
    const grant = ledger.grant(ticket, n * 4_000, { seen: { [venue.gates[1] as string]: [1, n + 1] } });
    if (n % 3 > 0) ledger.passage(grant, n * 4_000 + 900, 'passed');
    if (n % 50 === 0) ledger.add('fault', n * 4_000 + 950, { what: `\u0000 and \u{1f600} ${n}` });
  }
  return ledger;
}

const inTenant = <T>(venue: Venue, work: Parameters<typeof fresh.database.withTenant<T>>[1]) => fresh.database.withTenant(venue.tenantId, work);

test('a ledger that is cut anew at 1,000 random places and arrives in random order is the same bytes with the same proofs', { timeout: 180_000 }, async () => {
  const next = random(20_261_201);
  const venue = await makeVenue(fresh.url, { tickets: 1_500 });
  const ledger = longLedger(venue);
  const rows = ledger.rows();
  const places = new Set<number>();
  while (places.size < CUTS) places.add(1 + next(rows.length - 1));
  const ends = [...places, rows.length].sort((a, b) => a - b);
  const messages = ends.map((end, index) => rows.slice(ends[index - 1] ?? 0, end));
  // Some come twice, and some again with more around them.
  for (let n = 0; n < 50; n++) {
    const from = next(rows.length - 150);
    messages.push(rows.slice(from, from + 1 + next(150)));
  }
  for (let i = messages.length - 1; i > 0; i--) {
    const j = next(i + 1);
    [messages[i], messages[j]] = [messages[j] as LedgerRow[], messages[i] as LedgerRow[]];
  }
  while (messages.length > 0) await inTenant(venue, (client) => reconcile(client, messages.splice(0, TOGETHER).flat()));
  await proven(venue, ledger);
});

test('rows that come together are kept once, as one message of at most a hundred, compressed; what was stored already is no part of it', async () => {
  const venue = await makeVenue(fresh.url, { tickets: 1_500 });
  const ledger = longLedger(venue);
  const rows = ledger.rows();
  const take = (from: number, to: number) => inTenant(venue, (client) => reconcile(client, rows.slice(from, to)));
  const kept = async () =>
    (
      await inTenant(venue, (client) =>
        client.query<{ from_seq: number; rows: number }>('SELECT from_seq, cardinality(entries) AS rows FROM ledger_messages ORDER BY from_seq'),
      )
    ).rows.map(({ from_seq, rows: count }) => [from_seq, count]);
  await take(0, 10);
  await take(5, 250);
  await take(0, 250);
  expect(await kept()).toEqual([
    [1, 10],
    [11, 100],
    [111, 100],
    [211, 40],
  ]);
  // A lone row stays in its line.
  await take(250, 251);
  expect((await kept()).length).toBe(4);
  for (let from = 251; from < ROWS; from += 100) await take(from, from + 100);
  await proven(venue, ledger);
  const { rows: sizes } = await inTenant(venue, (client) =>
    client.query<{ raw: number; kept: number }>(
      'SELECT sum((SELECT sum(octet_length(e)) FROM unnest(entries) AS e))::integer AS raw, sum(pg_column_size(entries))::integer AS kept FROM ledger_messages',
    ),
  );
  const { raw, kept: bytes } = sizes[0] as (typeof sizes)[number];
  if (process.env['FIGURES'] !== undefined)
    console.log(`\nfigure: ${ROWS} rows of ${(raw / ROWS).toFixed(0)} bytes are kept in messages with ${(bytes / ROWS).toFixed(0)} bytes a row`);
  expect(bytes * 3).toBeLessThan(raw);
});

test('a month is detached with its messages, and what came after it is served on', async () => {
  const venue = await makeVenue(fresh.url, { tickets: 1_500 });
  const ledger = longLedger(venue);
  const rows = ledger.rows();
  const admin = await connectOwner(fresh.url);
  const owner = await connectOwner(fresh.ownerUrl);
  try {
    await inTenant(venue, (client) => reconcile(client, rows.slice(0, 300)));
    for (const table of ['ledger_lines', 'ledger_messages']) {
      await owner.query(`CREATE TABLE ${table}_202007 PARTITION OF ${table} FOR VALUES FROM ('2020-07-01 00:00:00+00') TO ('2020-08-01 00:00:00+00')`);
      await admin.query(`UPDATE ${table} SET received_at = '2020-07-15 12:00:00+00' WHERE gate = $1`, [ledger.gate]);
    }
    await inTenant(venue, (client) => reconcile(client, rows.slice(300, 400)));
    expect((await owner.query("SELECT detach_ledger_rows('2020-07-01') AS part")).rows).toEqual([{ part: 'ledger_lines_202007' }]);
    // Both are whole: the archive has what the lines had.
    expect(
      (
        await admin.query(
          'SELECT (SELECT count(*) FROM ledger_lines_202007)::integer AS lines, (SELECT sum(cardinality(entries)) FROM ledger_messages_202007)::integer AS texts',
        )
      ).rows,
    ).toEqual([{ lines: 300, texts: 300 }]);
    const page = await inTenant(venue, (client) => siteLedger(client, venue.site, { [ledger.gate]: [ledger.epoch, 300] }));
    expect(page.rows.map(({ entry }) => entry)).toEqual(ledger.entries.slice(300, 400));
    // A detached row that comes again is known.
    expect(await inTenant(venue, (client) => reconcile(client, rows.slice(250, 310)))).toMatchObject({ stored: 0 });
  } finally {
    await owner.close();
    await admin.close();
  }
});

/** Every row is served as it was written, by pages of odd sizes; each message proves itself; the acknowledgement stands for all. */
async function proven(venue: Venue, ledger: TestLedger): Promise<void> {
  const served: Record<string, unknown>[] = [];
  for (let more = true; more; ) {
    const page = await inTenant(venue, (client) => siteLedger(client, venue.site, { [ledger.gate]: [ledger.epoch, served.length] }, 333));
    served.push(...page.rows.filter(({ gate }) => gate === ledger.gate).map(({ entry }) => entry as Record<string, unknown>));
    more = page.more;
  }
  expect(served).toEqual(ledger.entries);
  let previous = firstPredecessor(sha256, ledger.gate, ledger.epoch);
  for (const entry of served) {
    previous = entryHash(sha256, previous, entry);
    expect(entry['hash']).toBe(previous);
  }
  const { rows: seen } = await inTenant(venue, (client) =>
    client.query<{ seq: number; entry: string; hash: string }>(
      "SELECT seq, entry, encode(hash, 'hex') AS hash FROM ledger_rows WHERE gate = $1 AND seq % 37 = 0 ORDER BY seq",
      [ledger.gate],
    ),
  );
  expect(seen).toEqual(ledger.entries.filter(({ seq }) => seq % 37 === 0).map((entry) => ({ seq: entry.seq, entry: entryText(entry), hash: entry.hash })));
  const { rows: messages } = await inTenant(venue, (client) =>
    client.query<{ predecessor: string | null; last_hash: string; entries: string[] }>(
      "SELECT encode(predecessor, 'hex') AS predecessor, encode(last_hash, 'hex') AS last_hash, entries FROM ledger_messages",
    ),
  );
  for (const { predecessor, last_hash, entries } of messages)
    if (predecessor !== null) expect(entries.reduce((before, text) => sha256(before + text), predecessor)).toBe(last_hash);
  const ack = (await inTenant(venue, (client) => acksFor(client, [ledger.gate]))).get(ledger.gate);
  expect(ack?.epochs).toMatchObject([{ epoch: ledger.epoch, upto_seq: ROWS, missing: [] }]);
}
