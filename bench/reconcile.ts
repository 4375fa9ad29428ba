/**
 * The account, measured: ledger rows a second by three ways, in one run on one PostgreSQL that waits for its disk.
 *
 *   row by row   one SELECT, one INSERT and one UPDATE for each row, 100 rows a transaction: the forerunners' way
 *   reconcile    the door of cloud/reconcile, hash chains checked, 100 and 1,000 rows a transaction
 *   floor        the same rows into a bare table without an index: multi-row INSERT and COPY (of a file that the server reads), 1,000 a transaction
 *
 *   node bench/reconcile.ts [--rows 20000] [--slow-rows 2000] [--rounds 3] [--clients 1,2,4] [--excess 1] [--mix grants|pairs] [--only reconcile-1000,copy]
 *
 * Rows are whole: hash, seen, offsets, about 700 bytes of JSON. `--excess` per cent of the tickets come twice, at two gates. `pairs`: each grant is
 * followed by its passage. Every cell has a tenant of its own; nothing is emptied in between. No checkpoint falls into a run, so bytes of WAL are the
 * rows' own and not those of full pages after it.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { connectOwner, createDatabase, type Database, type OwnerConnection } from '../cloud/database.ts';
import { migrate } from '../cloud/migrate.ts';
import { type LedgerRow, readRow, reconcile, sha256 } from '../cloud/reconcile/rows.ts';
import { entryHash } from '../contract/chain.ts';
import { startPostgres } from '../deploy/database/embedded.ts';
import { makeVenue, type Venue } from '../test/database.ts';
import { testLedger } from '../test/ledgers.ts';
import { quantile, table } from './table.ts';

const { values } = parseArgs({
  options: {
    rows: { type: 'string', default: '20000' },
    'slow-rows': { type: 'string', default: '2000' },
    rounds: { type: 'string', default: '3' },
    clients: { type: 'string', default: '1,2,4' },
    excess: { type: 'string', default: '1' },
    mix: { type: 'string', default: 'grants' },
    only: { type: 'string' },
  },
});
const ROWS = Number(values.rows);
const SLOW_ROWS = Number(values['slow-rows']);
const ROUNDS = Number(values.rounds);
const CLIENTS = values.clients.split(',').map(Number);
const EXCESS = Number(values.excess) / 100;
const GATES = 50;
/** Rows of a message; a batch is made of whole ones, as ingest makes it. */
const MESSAGE_ROWS = 100;
/** Peers that a grant names in `seen`. */
const SEEN = 5;

type Way = 'row-by-row' | 'reconcile-100' | 'reconcile-1000' | 'insert' | 'copy';
const WAYS = (['row-by-row', 'reconcile-100', 'reconcile-1000', 'insert', 'copy'] as const).filter((way) => values.only?.split(',').includes(way) ?? true);
const BATCH: Readonly<Record<Way, number>> = { 'row-by-row': 100, 'reconcile-100': 100, 'reconcile-1000': 1_000, insert: 1_000, copy: 1_000 };

interface Cell {
  readonly venue: Venue;
  readonly rows: readonly LedgerRow[];
  /** In the order in which they are sent. */
  readonly batches: readonly (readonly LedgerRow[])[];
  readonly tickets: number;
}

/** A tenant with its rows, made before the clock runs. */
async function makeCell(url: string, count: number, batchRows: number): Promise<Cell> {
  const each = values.mix === 'pairs' ? 2 : 1;
  const grants = Math.floor(count / each);
  const twice = Math.floor(grants * EXCESS);
  const tickets = grants - twice;
  const site = `b${randomBytes(4).toString('hex')}`;
  const gates = Array.from({ length: GATES }, (_, index) => `gate-${index}`);
  const venue = await makeVenue(url, { site, gates, tickets });
  const ledgers = gates.map((_, index) => testLedger(venue, index));
  // Ids as they come from a ticketing system: at random, so that neighbours in time are none in the index.
  const order = [...venue.tickets].sort((a, b) => (a.ticketRef < b.ticketRef ? -1 : 1));
  for (let index = 0; index < grants; index++) {
    const ledger = ledgers[Math.floor(index / MESSAGE_ROWS) % GATES] as (typeof ledgers)[number];
    const ticket = order[index % tickets] as (typeof order)[number];
    const seen = Object.fromEntries(Array.from({ length: SEEN }, (_, n) => [venue.gates[(index + n) % GATES], [1_790_000_000, index + 1]]));
    const grant = ledger.grant(ticket, 1_000 + index * 40, { boot_id: randomUUIDOf(ledger.gate), manifest_version: 1, seen });
    if (each === 2) ledger.passage(grant, 1_600 + index * 40, 'passed', { boot_id: randomUUIDOf(ledger.gate) });
  }
  const messages: LedgerRow[][] = [];
  const left = ledgers.map((ledger) => ledger.rows());
  while (left.some((rows) => rows.length > 0)) for (const rows of left) if (rows.length > 0) messages.push(rows.splice(0, MESSAGE_ROWS));
  const batches: LedgerRow[][] = [];
  for (let at = 0; at < messages.length; at += batchRows / MESSAGE_ROWS) batches.push(messages.slice(at, at + batchRows / MESSAGE_ROWS).flat());
  return { venue, rows: messages.flat(), batches, tickets };
}

const boots = new Map<string, string>();
function randomUUIDOf(gate: string): string {
  let id = boots.get(gate);
  if (id === undefined) boots.set(gate, (id = randomUUID()));
  return id;
}

/** What the forerunners keep: a wide ticket and a line for each scan, both with their usual indexes. No row security: in its favour. */
const FORERUNNER = `
  CREATE TABLE bench_tickets (LIKE tickets INCLUDING DEFAULTS INCLUDING INDEXES INCLUDING STORAGE);
  CREATE TABLE bench_scans (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), tenant_id uuid NOT NULL, gate text NOT NULL, epoch bigint NOT NULL, seq bigint NOT NULL,
    ticket_id text, event_id text, kind text NOT NULL, result text NOT NULL, hash bytea NOT NULL, entry text NOT NULL, scanned_at timestamptz NOT NULL, created_at timestamptz NOT NULL DEFAULT now());
  CREATE INDEX ON bench_scans (tenant_id, ticket_id, scanned_at);
  CREATE TABLE bench_rows (tenant_id uuid NOT NULL, gate text NOT NULL, epoch bigint NOT NULL, seq bigint NOT NULL, kind text NOT NULL, hash bytea NOT NULL, entry text NOT NULL, at timestamptz NOT NULL, event_id text, ticket_id text)`;

async function rowByRow(database: Database, cell: Cell, rows: readonly LedgerRow[]): Promise<void> {
  await database.asOwner(async (client) => {
    for (const row of rows) {
      const { event_id, ticket_id, kind, ts } = row.entry as { event_id: string; ticket_id: string; kind: string; ts: string };
      const { rows: found } = await client.query<{ scan_count: number }>(
        'SELECT scan_count, status FROM bench_tickets WHERE tenant_id = $1 AND event_id = $2 AND ticket_id = $3 FOR UPDATE',
        [cell.venue.tenantId, event_id, ticket_id],
      );
      const result = kind !== 'grant' ? 'passage' : (found[0]?.scan_count ?? 0) === 0 ? 'success' : 'duplicate';
      await client.query(
        'INSERT INTO bench_scans (tenant_id, gate, epoch, seq, ticket_id, event_id, kind, result, hash, entry, scanned_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)',
        [cell.venue.tenantId, row.gate, row.epoch, row.seq, ticket_id, event_id, kind, result, Buffer.from(row.hash, 'hex'), JSON.stringify(row.entry), ts],
      );
      await client.query(
        "UPDATE bench_tickets SET scan_count = scan_count + ($4 = 'success')::integer, first_scanned_at = coalesce(first_scanned_at, $5), last_scanned_at = $5, status = 'checked_in', updated_at = now() WHERE tenant_id = $1 AND event_id = $2 AND ticket_id = $3",
        [cell.venue.tenantId, event_id, ticket_id, result, ts],
      );
    }
  });
}

function columns(cell: Cell, rows: readonly LedgerRow[]): unknown[] {
  const entries = rows.map(({ entry }) => entry as { kind: string; ts: string; event_id: string; ticket_id: string });
  return [
    cell.venue.tenantId,
    rows.map(({ gate }) => gate),
    rows.map(({ epoch }) => epoch),
    rows.map(({ seq }) => seq),
    entries.map(({ kind }) => kind),
    rows.map(({ hash }) => Buffer.from(hash, 'hex')),
    entries.map((entry) => JSON.stringify(entry)),
    entries.map(({ ts }) => ts),
    entries.map(({ event_id }) => event_id),
    entries.map(({ ticket_id }) => ticket_id),
  ];
}
const insertBare = (database: Database, cell: Cell, rows: readonly LedgerRow[]) =>
  database.asOwner((client) =>
    client.query(
      'INSERT INTO bench_rows SELECT $1, * FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::bytea[], $7::text[], $8::timestamptz[], $9::text[], $10::text[])',
      columns(cell, rows),
    ),
  );

const copyText = (cell: Cell, rows: readonly LedgerRow[]) =>
  rows
    .map(({ gate, epoch, seq, hash, entry }) =>
      [
        cell.venue.tenantId,
        gate,
        epoch,
        seq,
        entry['kind'],
        `\\\\x${hash}`,
        JSON.stringify(entry).replaceAll('\\', '\\\\'),
        entry['ts'],
        entry['event_id'],
        entry['ticket_id'],
      ].join('\t'),
    )
    .join('\n');

interface Result {
  readonly rowsPerSecond: number;
  readonly walBytes: number;
}
const wrong = { lost: 0, doubled: 0, failed: 0 };

async function measure(url: string, owner: OwnerConnection, database: Database, way: Way, clients: number): Promise<Result> {
  const cell = await makeCell(url, way === 'row-by-row' ? SLOW_ROWS : ROWS, BATCH[way]);
  const folder = mkdtempSync('/var/tmp/stile-bench-');
  chmodSync(folder, 0o755);
  if (way === 'row-by-row') await owner.query('INSERT INTO bench_tickets SELECT * FROM tickets WHERE tenant_id = $1', [cell.venue.tenantId]);
  if (way === 'copy') for (const [index, rows] of cell.batches.entries()) writeFileSync(join(folder, String(index)), `${copyText(cell, rows)}\n`);
  let next = 0;
  const work = async () => {
    for (let index = next++; index < cell.batches.length; index = next++) {
      const rows = cell.batches[index] as readonly LedgerRow[];
      try {
        if (way === 'row-by-row') await rowByRow(database, cell, rows);
        else if (way === 'insert') await insertBare(database, cell, rows);
        else if (way === 'copy') await database.asOwner((client) => client.query(`COPY bench_rows FROM '${join(folder, String(index))}'`));
        else await database.withTenant(cell.venue.tenantId, (client) => reconcile(client, rows));
      } catch (error) {
        wrong.failed += 1;
        console.error(`  ${way}: ${(error as Error).message} ${(error as { where?: string }).where?.slice(0, 300) ?? ''}`);
      }
    }
  };
  // Connections are open before the clock runs.
  await Promise.all(Array.from({ length: clients }, () => database.withTenant(cell.venue.tenantId, (client) => client.query('SELECT pg_sleep(0.05)'))));
  const wal = await walPosition(owner);
  const started = performance.now();
  await Promise.all(Array.from({ length: clients }, work));
  const seconds = (performance.now() - started) / 1000;
  const walBytes = (await walPosition(owner)) - wal;
  rmSync(folder, { recursive: true });
  if (way.startsWith('reconcile')) await check(owner, cell);
  return { rowsPerSecond: cell.rows.length / seconds, walBytes: walBytes / cell.rows.length };
}

const walPosition = async (owner: OwnerConnection) =>
  Number((await owner.query<{ at: string }>("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn AS at")).rows[0]?.at);

/** Every row is there once, one winner a ticket, and every sum is right. */
async function check(owner: OwnerConnection, cell: Cell): Promise<void> {
  const { rows } = await owner.query<{ rows: number; keys: number; winners: number; checked: number; grants: number; verdicts: number }>(
    `SELECT (SELECT count(*) FROM ledger_rows WHERE tenant_id = $1) AS rows, (SELECT count(DISTINCT (gate, epoch, seq)) FROM ledger_rows WHERE tenant_id = $1) AS keys,
       (SELECT count(*) FROM admissions WHERE tenant_id = $1 AND verdict = 'winner') AS winners, (SELECT count(*) FROM tickets WHERE tenant_id = $1 AND status = 'checked_in' AND scan_count = 1) AS checked,
       (SELECT sum(grants) FROM gate_counts WHERE tenant_id = $1)::bigint AS grants, (SELECT sum(winners + reentries + exits + excess + annulled) FROM gate_counts WHERE tenant_id = $1)::bigint AS verdicts`,
    [cell.venue.tenantId],
  );
  const found = rows[0] as (typeof rows)[number];
  const grants = cell.rows.filter(({ entry }) => entry['kind'] === 'grant').length;
  wrong.lost += cell.rows.length - found.keys + (cell.tickets - found.winners) + (cell.tickets - found.checked);
  wrong.doubled += found.rows - found.keys + Math.abs(found.grants - grants) + Math.abs(found.verdicts - grants);
}

/** What the caller does for each row before PostgreSQL has it. µs a row. */
async function callerCosts(url: string): Promise<string> {
  const cell = await makeCell(url, 5_000, 1_000);
  const texts = cell.rows.map(({ entry }) => JSON.stringify(entry));
  const time = (work: () => void) => {
    const runs = Array.from({ length: 5 }, () => {
      const started = performance.now();
      work();
      return ((performance.now() - started) * 1000) / cell.rows.length;
    });
    return quantile(runs, 0.5).toFixed(1);
  };
  const parse = time(() => {
    for (const text of texts) JSON.parse(text);
  });
  const read = time(() => {
    for (const { gate, epoch, entry } of cell.rows) readRow(gate, epoch, entry);
  });
  const hash = time(() => {
    for (const { hash: previous, entry } of cell.rows) entryHash(sha256, previous, entry);
  });
  const bytes = texts.reduce((sum, text) => sum + text.length, 0) / texts.length;
  return `one row: ${bytes.toFixed(0)} bytes of JSON; in the caller, µs a row: JSON.parse ${parse}, schemas (readRow, before reconcile) ${read}, hash (canonical JSON and SHA-256, within reconcile) ${hash}`;
}

const server = await startPostgres({ databaseUrl: undefined });
try {
  const admin = await connectOwner(server.url);
  for (const setting of ["checkpoint_timeout = '1h'", "max_wal_size = '64GB'"]) await admin.query(`ALTER SYSTEM SET ${setting}`);
  await admin.query('SELECT pg_reload_conf()');
  const settings = await admin.query<{ name: string; setting: string }>(
    "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'synchronous_commit', 'server_version', 'shared_buffers', 'full_page_writes') ORDER BY name",
  );
  await admin.close();
  await migrate(server.url);
  const owner = await connectOwner(server.url);
  await owner.query(FORERUNNER);
  const database = createDatabase({ url: server.url, maxConnections: Math.max(...CLIENTS) + 1, statementTimeoutMs: 120_000 });
  console.log(settings.rows.map(({ name, setting }) => `${name} ${setting}`).join(', '));
  console.log(`${ROWS} rows a cell (row by row ${SLOW_ROWS}), mix ${values.mix}, ${EXCESS * 100} % of the tickets twice, ${ROUNDS} rounds`);
  console.log(await callerCosts(server.url));
  const results = new Map<string, Result[]>();
  // One round that does not count: caches and JIT.
  for (const way of WAYS) await measure(server.url, owner, database, way, 1);
  for (let round = 0; round < ROUNDS; round++)
    for (const clients of CLIENTS)
      for (const way of WAYS) {
        const key = `${way}/${clients}`;
        results.set(key, [...(results.get(key) ?? []), await measure(server.url, owner, database, way, clients)]);
      }
  const median = (way: Way, clients: number, what: keyof Result) =>
    quantile(
      (results.get(`${way}/${clients}`) ?? []).map((result) => result[what]),
      0.5,
    );
  const ratio = (a: number, b: number) => (Number.isNaN(a / b) ? '–' : (a / b).toFixed(2));
  for (const clients of CLIENTS) {
    console.log(`\n${clients} client${clients === 1 ? '' : 's'}`);
    console.log(
      table(
        ['way', 'rows/s', '× row by row', '× INSERT', '× COPY', 'WAL bytes/row', '× row by row'],
        WAYS.map((way) => {
          const rate = median(way, clients, 'rowsPerSecond');
          const wal = median(way, clients, 'walBytes');
          return [
            way,
            rate.toFixed(0),
            ...(['row-by-row', 'insert', 'copy'] as const).map((other) => ratio(rate, median(other, clients, 'rowsPerSecond'))),
            wal.toFixed(0),
            ratio(wal, median('row-by-row', clients, 'walBytes')),
          ];
        }),
      ),
    );
  }
  const { rows } = await owner.query<{ deadlocks: number }>('SELECT sum(deadlocks)::bigint AS deadlocks FROM pg_stat_database');
  console.log(`\ndeadlocks ${rows[0]?.deadlocks}, failed batches ${wrong.failed}, lost rows ${wrong.lost}, doubled rows ${wrong.doubled}`);
  await database.close();
  await owner.close();
  if (wrong.failed + wrong.lost + wrong.doubled + (rows[0]?.deadlocks ?? 0) > 0) process.exitCode = 1;
} finally {
  await server.stop();
}
