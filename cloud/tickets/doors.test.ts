/** Scans that come to the cloud itself: rows of its ledger, one winner a ticket, nobody waiting for a ticket. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { canonicalJson, entryHash, firstPredecessor } from '../../contract/hash-chain.ts';
import { isCloudLedger } from '../../contract/ids.ts';
import { LedgerEntry } from '../../contract/ledger.ts';
import { type FreshDatabase, freshDatabase, makeVenue, type TestTicket, type Venue } from '../../testkit/database.ts';
import { testLedger } from '../../testkit/ledgers.ts';
import { sha256 } from '../../testkit/sha256.ts';
import { businessErrorOf, connectOwner, createDatabase, type Database } from '../db/database.ts';
import { appendCloudRows, settle } from '../reconcile/cloud-ledger.ts';
import { siteLedger } from '../reconcile/queries.ts';
import { reconcile } from '../reconcile/reconcile.ts';
import { reconcileUpload } from '../scan/offline.ts';
import { scanTicketAtomic, scanVip, syncOfflineScan } from '../scan/testing/sql-doors.ts';

/** Tickets that eight doors scan at once; CROWD=400 for a long run. */
const CROWD = Number(process.env['CROWD'] ?? 100);
let fresh: FreshDatabase;
let wide: Database;
beforeAll(async () => {
  fresh = await freshDatabase();
  wide = createDatabase({ url: fresh.servingUrl, maxConnections: 16 });
});
afterAll(async () => {
  await wide.close();
  await fresh.drop();
});

const rowsOf = async <Row = Record<string, unknown>>(venue: Venue, sql: string, values: readonly unknown[] = []): Promise<Row[]> =>
  (await wide.withTenant(venue.tenantId, (client) => client.query<Row>(sql, values))).rows;
const failureOf = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => null,
    (error: unknown) => error,
  );

interface Scan {
  readonly allowed: boolean;
  readonly busy: boolean;
  readonly reason: string | null;
  readonly entry_type: string | null;
  readonly last_entry_at: Date | null;
  readonly scan_count: number;
  readonly gate: string;
  readonly epoch: number;
  readonly seq: number;
}
const scan = async (venue: Venue, ticket: string, by = 'Door 3'): Promise<Scan> =>
  (await rowsOf<Scan>(venue, 'SELECT * FROM scan_ticket_atomic($1, $2)', [ticket, by]))[0] as Scan;
interface Synced {
  readonly status: string;
  readonly message: string;
  readonly verdict: string | null;
}
const sync = async (venue: Venue, ticket: string, at: string, more = ''): Promise<Synced> =>
  (await rowsOf<Synced>(venue, `SELECT status, message, verdict FROM sync_offline_scan($1, $2, $3 ${more})`, [ticket, at, venue.gates[0]]))[0] as Synced;

/** The cloud's ledgers as gates read them, with every hash made anew by the contract's own code. */
async function checkedLedger(venue: Venue): Promise<{ kind: string }[]> {
  const { rows } = await wide.withTenant(venue.tenantId, (client) => siteLedger(client, venue.site, {}));
  const cloud = rows.filter(({ gate }) => isCloudLedger(gate));
  for (const [ledger, own] of Map.groupBy(cloud, ({ gate }) => gate)) {
    let previous = firstPredecessor(sha256, ledger, own[0]?.epoch ?? 0);
    for (const [index, { entry }] of own.entries()) {
      expect(LedgerEntry.safeParse(entry).error?.issues).toBeUndefined();
      expect([entry.seq, entry['hash']]).toEqual([index + 1, entryHash(sha256, previous, entry)]);
      previous = entry['hash'] as string;
    }
  }
  return cloud.map(({ entry }) => ({ kind: entry.kind }));
}

test('canonical JSON is the same in SQL and in the contract', async () => {
  const venue = await makeVenue(fresh.url);
  const value = {
    b: [1, -7, 9007199254740991, { z: null, a: true, A: false }],
    text: 'quote " back \\ slash / tab \t new\nline \u0001 é 漢 🎫 \u2028 \u007f',
    a: '',
    n: 10000000000,
  };
  const [row] = await rowsOf<{ text: string }>(venue, 'SELECT canonical_json($1::jsonb) AS text', [JSON.stringify(value)]);
  expect(row?.text).toBe(canonicalJson(value));
  expect(await failureOf(rowsOf(venue, 'SELECT canonical_json(\'{"a": 1.5}\')'))).toMatchObject({ message: expect.stringContaining('whole numbers') });
});

test('a scan is admitted once, then refused with the last entry; both are rows that gates read, chained', async () => {
  const venue = await makeVenue(fresh.url);
  const first = await scan(venue, 'T-1', '8c5f3a52-5d8e-4b8e-9f5a-0a4d8b1c2d3e');
  expect(first).toMatchObject({
    allowed: true,
    busy: false,
    reason: null,
    entry_type: 'first_entry',
    last_entry_at: null,
    scan_count: 1,
    gate: `${venue.site}/cloud`,
    seq: 1,
  });
  const second = await scan(venue, 'T-1');
  expect(second).toMatchObject({ allowed: false, busy: false, reason: 'already_redeemed', entry_type: null, scan_count: 1, seq: 3 });
  expect(second.last_entry_at).toBeInstanceOf(Date);
  // The TypeScript door goes on where the SQL one ended, and the other way round.
  await wide.withTenant(venue.tenantId, (client) =>
    settle(client, { of: [first.gate, first.epoch, first.seq], outcome: 'returned', actor: 'op-1', reason: 'wrong guest' }),
  );
  expect(await scan(venue, 'T-1')).toMatchObject({ allowed: true, entry_type: 'first_entry', scan_count: 1 });
  expect((await checkedLedger(venue)).map(({ kind }) => kind)).toEqual(['grant', 'passage', 'refusal', 'settlement', 'grant', 'passage']);
  expect(await rowsOf(venue, 'SELECT result, entry_type, reason, scanned_by, scanned_by_id, seq FROM ticket_scans ORDER BY id')).toEqual([
    {
      result: 'ALLOW',
      entry_type: 'first_entry',
      reason: null,
      scanned_by: '8c5f3a52-5d8e-4b8e-9f5a-0a4d8b1c2d3e',
      scanned_by_id: '8c5f3a52-5d8e-4b8e-9f5a-0a4d8b1c2d3e',
      seq: 1,
    },
    { result: 'DENY', entry_type: null, reason: 'already_redeemed', scanned_by: 'Door 3', scanned_by_id: null, seq: 3 },
    { result: 'ALLOW', entry_type: 'first_entry', reason: null, scanned_by: 'Door 3', scanned_by_id: null, seq: 5 },
  ]);
  expect(await rowsOf(venue, "SELECT status, scan_count FROM tickets WHERE ticket_id = 'T-1'")).toEqual([{ status: 'checked_in', scan_count: 1 }]);
  expect(await rowsOf(venue, 'SELECT count(*) AS waiting FROM unpublished_cloud_rows(100)')).toEqual([{ waiting: 1 }]);
});

test('what a ticket’s state forbids is refused with its reason; what is not there is said', async () => {
  const venue = await makeVenue(fresh.url);
  await rowsOf(venue, "UPDATE tickets SET status = 'revoked' WHERE ticket_id = 'T-1'");
  await rowsOf(venue, "UPDATE tickets SET blocked = true, note = 'ask the office' WHERE ticket_id = 'T-2'");
  expect(await scan(venue, 'T-1')).toMatchObject({ allowed: false, reason: 'revoked', scan_count: 0 });
  expect(await scan(venue, 'T-2')).toMatchObject({ allowed: false, reason: 'blocked' });
  expect(await rowsOf(venue, 'SELECT 1 FROM ticket_usage')).toEqual([]);
  expect((await checkedLedger(venue)).map(({ kind }) => kind)).toEqual(['refusal', 'refusal']);
  expect(businessErrorOf(await failureOf(scan(venue, 'T-99')))).toMatchObject({ status: 404, code: 'NO_SUCH_TICKET' });
  expect(businessErrorOf(await failureOf(rowsOf(venue, "SELECT * FROM scan_ticket_atomic('T-3', 'x', 'nowhere/north')")))).toMatchObject({
    status: 404,
    code: 'NO_SUCH_DEVICE',
  });
  const other = await makeVenue(fresh.url);
  expect(businessErrorOf(await failureOf(rowsOf(other, 'SELECT * FROM scan_ticket_atomic($1, $2, $3)', ['T-3', 'x', venue.gates[0]])))).toMatchObject({
    code: 'NO_SUCH_DEVICE',
  });
});

test('whoever scans a ticket that is being scanned, or being reconciled, is told so at once', async () => {
  const venue = await makeVenue(fresh.url);
  const north = testLedger(venue, 0);
  north.grant(venue.tickets[1] as TestTicket, 0);
  await wide.withTenant(venue.tenantId, async (client) => {
    await client.query("SELECT * FROM scan_ticket_atomic('T-1')");
    expect(await scan(venue, 'T-1')).toMatchObject({ allowed: false, busy: true, reason: 'busy' });
  });
  const owner = await connectOwner(fresh.url);
  try {
    // Somebody has the row, as an ingest would.
    await owner.query('BEGIN');
    await owner.query("SELECT 1 FROM tickets WHERE tenant_id = $1 AND ticket_id = 'T-2' FOR UPDATE", [venue.tenantId]);
    expect(await scan(venue, 'T-2')).toMatchObject({ allowed: false, busy: true, reason: 'busy' });
    await owner.query('ROLLBACK');
  } finally {
    await owner.close();
  }
  expect(await scan(venue, 'T-2')).toMatchObject({ allowed: true });
  expect(await rowsOf(venue, "SELECT reason, seq FROM ticket_scans WHERE reason = 'busy'")).toEqual([
    { reason: 'busy', seq: null },
    { reason: 'busy', seq: null },
  ]);
});

test(`${CROWD} tickets, 8 doors each at once, the backlog of a gate between them: no second winner, no deadlock`, { timeout: 600_000 }, async () => {
  const venue = await makeVenue(fresh.url, { tickets: CROWD });
  const north = testLedger(venue, 0);
  // A gate that was away admits some of the same tickets, later by time.
  for (let n = 0; n < CROWD / 4; n++) north.grant(venue.tickets[(n * 7) % CROWD] as TestTicket, Date.now() - Date.UTC(2026, 4, 1, 12) + 3_600_000 + n);
  const answers: Scan[] = [];
  const door = async (index: number) => {
    for (let n = 0; n < CROWD; n++) {
      const ticket = `T-${((n * (2 * index + 3)) % CROWD) + 1}`;
      let answer = await scan(venue, ticket);
      while (answer.busy) answer = await scan(venue, ticket);
      answers.push(answer);
    }
  };
  const ingest = async () => {
    const rows = north.rows();
    for (let at = 0; at < rows.length; at += 20) await wide.withTenant(venue.tenantId, (client) => reconcile(client, rows.slice(at, at + 20)));
  };
  await Promise.all([...Array.from({ length: 8 }, (_, index) => door(index)), ingest()]);
  const winners = answers.filter(({ allowed }) => allowed);
  const [sums] = await rowsOf(
    venue,
    `SELECT count(*) FILTER (WHERE verdict = 'winner') AS winners, count(DISTINCT ticket_id) FILTER (WHERE verdict = 'winner') AS tickets, count(*) FILTER (WHERE gate LIKE '%/cloud') AS by_cloud,
    count(*) FILTER (WHERE gate LIKE '%/cloud' AND verdict <> 'winner') AS cloud_losers, (SELECT sum(scan_count) FROM tickets) AS scans, (SELECT count(*) FROM tickets WHERE status = 'checked_in') AS inside, (SELECT count(*) FROM ticket_scans WHERE result = 'ALLOW') AS logged FROM admissions`,
  );
  // Every ticket got in once: by a door, or by the gate before any door had it.
  expect(sums).toMatchObject({
    winners: CROWD,
    tickets: CROWD,
    scans: CROWD,
    inside: CROWD,
    by_cloud: winners.length,
    cloud_losers: 0,
    logged: winners.length,
  });
  expect(new Set(answers.filter(({ allowed }) => !allowed).map(({ reason }) => reason))).toEqual(new Set(['already_redeemed']));
  expect(answers.length).toBe(8 * CROWD);
  if (process.env['FIGURES'] !== undefined)
    console.log(`\nfigure: ${CROWD} tickets at 8 doors of the cloud at once, with a gate's backlog between: ${CROWD} admitted, 0 second winners`);
});

test('scans of devices that were away: the first by time wins, whoever comes later; the same scan again is known', async () => {
  const venue = await makeVenue(fresh.url);
  expect(await sync(venue, 'T-1', '2026-05-01T12:10:00Z')).toEqual({ status: 'SUCCESS', message: 'first_entry', verdict: 'winner' });
  expect(await sync(venue, 'T-1', '2026-05-01T12:10:00Z')).toMatchObject({ status: 'DUPLICATE' });
  expect(await sync(venue, 'T-1', '2026-05-01T12:20:00Z')).toMatchObject({
    status: 'CONFLICT',
    verdict: 'excess',
    message: 'already used, last entry 2026-05-01T12:10:00Z',
  });
  // An earlier one, later told.
  expect(await sync(venue, 'T-1', '2026-05-01T12:05:00Z')).toEqual({ status: 'SUCCESS', message: 'first_entry', verdict: 'winner' });
  expect(await rowsOf(venue, "SELECT at, verdict FROM admissions WHERE ticket_id = 'T-1' ORDER BY at")).toEqual([
    { at: new Date('2026-05-01T12:05:00Z'), verdict: 'winner' },
    { at: new Date('2026-05-01T12:10:00Z'), verdict: 'excess' },
    { at: new Date('2026-05-01T12:20:00Z'), verdict: 'excess' },
  ]);
  expect(await sync(venue, 'T-2', '2026-05-01T12:00:00Z', ", 'DENY', 'unpaid', 'scan-17'")).toMatchObject({ status: 'SUCCESS' });
  expect(await sync(venue, 'T-3', '2026-05-01T13:00:00Z', ", 'ALLOW', NULL, 'scan-17'")).toEqual({
    status: 'ERROR',
    message: 'this scan_id was used for another scan',
    verdict: null,
  });
  // What came over HTTP is known here, and the other way round.
  const http = (ticket: string) =>
    reconcileUpload(wide, venue.tenantId, venue.gates[0] as string, [{ ticket_id: ticket, scanned_at: '2026-05-01T14:00:00.000Z', result: 'ALLOW' }], {
      nowMs: Date.now(),
    });
  expect(await http('T-6')).toMatchObject({ results: [{ status: 'SUCCESS' }] });
  expect(await sync(venue, 'T-6', '2026-05-01T14:00:00Z')).toMatchObject({ status: 'DUPLICATE' });
  expect(await sync(venue, 'T-7', '2026-05-01T14:00:00Z')).toMatchObject({ status: 'SUCCESS' });
  expect(await http('T-7')).toMatchObject({ results: [{ status: 'DUPLICATE' }] });
  // One wrong scan undoes no other.
  await wide.withTenant(venue.tenantId, async (client) => {
    const say = async (sql: string) =>
      (await client.query<{ status: string; message: string }>(`SELECT status, message FROM sync_offline_scan(${sql})`)).rows[0];
    expect(await say(`'T-4', '2026-05-01T13:00:00Z', '${venue.gates[0]}'`)).toMatchObject({ status: 'SUCCESS' });
    expect(await say("'T-5', '2026-05-01T13:00:00Z', 'nowhere/north'")).toEqual({ status: 'ERROR', message: 'Device not found' });
    expect(await say(`'T-77', '2026-05-01T13:00:00Z', '${venue.gates[0]}'`)).toMatchObject({
      status: 'PENDING',
      message: expect.stringMatching(/^there is no ticket T-77: kept/),
    });
    expect(await say(`'T-5', '2026-05-01T13:00:00Z', '${venue.gates[0]}', 'MAYBE'`)).toMatchObject({ status: 'ERROR' });
  });
  expect(await rowsOf(venue, "SELECT status FROM tickets WHERE ticket_id = 'T-4'")).toEqual([{ status: 'checked_in' }]);
  await checkedLedger(venue);
});

test('eight devices send the same scans at once: each counts once', { timeout: 120_000 }, async () => {
  const venue = await makeVenue(fresh.url, { tickets: 20 });
  const said = (
    await Promise.all(
      Array.from({ length: 8 }, async (_, index) => {
        const answers: string[] = [];
        for (let n = 0; n < 20; n++)
          answers.push((await sync(venue, `T-${((n * (2 * index + 1)) % 20) + 1}`, `2026-05-01T12:00:${String(n % 3).padStart(2, '0')}Z`)).status);
        return answers;
      }),
    )
  ).flat();
  expect(said.length).toBe(160);
  expect(
    await rowsOf(
      venue,
      "SELECT count(*) AS winners, (SELECT count(*) FROM device_scans) = (SELECT count(*) FROM admissions) AS every_line_counts FROM admissions WHERE verdict = 'winner'",
    ),
  ).toEqual([{ winners: 20, every_line_counts: true }]);
  expect((await checkedLedger(venue)).length).toBeGreaterThan(40);
});

test('a scan soon after another is a duplicate, whichever gate made it; noted attempts count too', async () => {
  const venue = await makeVenue(fresh.url);
  const ask = async (ticket: string, window: number, at: string) =>
    (await rowsOf(venue, 'SELECT * FROM check_duplicate_scan($1, $2, NULL, $3)', [ticket, window, at]))[0];
  expect(await ask('T-1', 10, '2026-05-01T12:00:05Z')).toEqual({ is_duplicate: false, last_scan_at: null, scan_count: 0 });
  const north = testLedger(venue, 0);
  north.grant(venue.tickets[0] as TestTicket, 0);
  await wide.withTenant(venue.tenantId, (client) => reconcile(client, north.rows()));
  expect(await ask('T-1', 10, '2026-05-01T12:00:05Z')).toEqual({ is_duplicate: true, last_scan_at: new Date('2026-05-01T12:00:00Z'), scan_count: 1 });
  expect(await ask('T-1', 3, '2026-05-01T12:00:05Z')).toMatchObject({ is_duplicate: false });
  await rowsOf(venue, "SELECT record_scan_attempt('T-2', 'ALLOW', NULL, NULL, 'Bar', '2026-05-01T12:00:00Z')");
  await rowsOf(venue, "SELECT record_scan_attempt('T-3', 'DENY', 'blocked', NULL, 'Bar', '2026-05-01T12:00:00Z')");
  expect(await ask('T-2', 10, '2026-05-01T12:00:05Z')).toEqual({ is_duplicate: true, last_scan_at: new Date('2026-05-01T12:00:00Z'), scan_count: 0 });
  expect(await ask('T-3', 10, '2026-05-01T12:00:05Z')).toMatchObject({ is_duplicate: false });
  expect(businessErrorOf(await failureOf(ask('T-98', 10, '2026-05-01T12:00:05Z')))).toMatchObject({ status: 404 });
  expect(businessErrorOf(await failureOf(rowsOf(venue, "SELECT record_scan_attempt('T-2', 'PERHAPS')")))).toMatchObject({ status: 400 });
});

test('rows by hand: none without a tenant, none for another tenant’s site', async () => {
  const [ours, theirs] = [await makeVenue(fresh.url), await makeVenue(fresh.url)];
  const override = JSON.stringify([{ kind: 'override', actor: 'op-1', action: 'note', reason: 'test' }]);
  await expect(wide.withoutTenant((client) => client.query('SELECT * FROM append_cloud_rows($1, $2)', [ours.site, override]))).rejects.toThrow(
    'no tenant is set',
  );
  await expect(rowsOf(ours, 'SELECT * FROM append_cloud_rows($1, $2)', [theirs.site, override])).rejects.toThrow('foreign key');
  await rowsOf(ours, 'SELECT * FROM append_cloud_rows($1, $2)', [ours.site, override]);
  await wide.withTenant(ours.tenantId, (client) => appendCloudRows(client, ours.site, [{ kind: 'override', actor: 'op-2', action: 'note', reason: 'again' }]));
  await rowsOf(ours, 'SELECT * FROM append_cloud_rows($1, $2)', [ours.site, override]);
  expect(await checkedLedger(ours)).toHaveLength(3);
});

test('the typed callers say the same', async () => {
  const venue = await makeVenue(fresh.url);
  const at = (scannedAt: string) => ({ ticketId: 'T-2', device: venue.gates[0] as string, scannedAt: new Date(scannedAt), result: 'ALLOW' as const });
  const said = await wide.withTenant(venue.tenantId, async (client) => [
    await scanTicketAtomic(client, { ticketId: 'T-1', scannedBy: 'Door 3', device: venue.gates[0] }),
    await scanTicketAtomic(client, { ticketId: 'T-1', eventId: 'EV1' }),
    await syncOfflineScan(client, at('2026-05-01T12:00:00Z')),
    await syncOfflineScan(client, at('2026-05-01T12:00:00Z')),
    await syncOfflineScan(client, { ...at('2026-05-01T12:00:00Z'), device: 'no/where' }),
    await scanVip(client, { eventId: 'NONE', token: 'x' }),
  ]);
  expect(said).toMatchObject([
    { allowed: true, entryType: 'first_entry', scanCount: 1, row: [expect.stringContaining(`${venue.site}/@`), expect.any(Number), 1] },
    { allowed: false, reason: 'already_redeemed', lastEntryAt: expect.any(Date) },
    { status: 'SUCCESS' },
    { status: 'DUPLICATE' },
    { status: 'ERROR', message: 'Device not found' },
    null,
  ]);
});
