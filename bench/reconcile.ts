/**
 * The account, measured: ledger rows a second by several ways, in one run on one PostgreSQL that waits for its disk.
 *
 *   row by row   one SELECT, one INSERT and one UPDATE for each row, 100 rows a transaction, into tables as earlier systems have them: the whole row in a
 *                line of its own, the ticket with an index on its state, a trigger that writes the state's history
 *   row-lean     the same into the least that would do: no history, no index that a scan changes
 *   reconcile    the door of cloud/reconcile, hash chains checked, 100 and 1,000 rows a transaction
 *   reconcile-texts  the same, as it was: every row's whole text in its own line instead of one compressed message for all that come together
 *   copy-kept    the same rows by COPY into a table like ledger_lines, with its indexes: what keeping whole rows costs
 *   floor        the same rows into a bare table without an index: multi-row INSERT and COPY (of a file that the server reads), 1,000 a transaction
 *
 *   node bench/reconcile.ts [--rows 10000] [--slow-rows 1000] [--rounds 3] [--clients 1,2,4] [--excess 1] [--mix grants|pairs] [--only reconcile-1000,copy]
 *
 * Rows are whole: hash, seen, offsets, about 650 bytes of JSON. `--excess` per cent of the tickets come twice, at two gates. `pairs`: each grant is
 * followed by its passage. Every cell has a tenant of its own; nothing is emptied in between. No checkpoint falls into a run, so bytes of WAL are the
 * rows' own and not those of full pages after it. DATABASE_URL: that server instead of the one from npm (which is built for size: processor time
 * there is about a third more than on a distribution's build).
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { connectOwner, createDatabase, type Database, type OwnerConnection } from '../cloud/db/database.ts';
import { migrate } from '../cloud/db/migrate.ts';
import { reconcile, sha256 } from '../cloud/reconcile/reconcile.ts';
import { type LedgerRow, readRow } from '../cloud/reconcile/row.ts';
import { entryHash } from '../contract/hash-chain.ts';
import { makeVenue, type Venue } from '../testkit/database.ts';
import { testLedger } from '../testkit/ledgers.ts';
import { startPostgres } from '../testkit/postgres.ts';
import { quantile, table } from './table.ts';

const { values } = parseArgs({
  options: {
    rows: { type: 'string', default: '10000' },
    'slow-rows': { type: 'string', default: '1000' },
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

const ALL_WAYS = ['row-by-row', 'row-lean', 'reconcile-100', 'reconcile-1000', 'reconcile-texts', 'insert', 'copy-kept', 'copy'] as const;
type Way = (typeof ALL_WAYS)[number];
const WAYS = ALL_WAYS.filter((way) => values.only?.split(',').includes(way) ?? true);
const BATCH: Readonly<Record<Way, number>> = {
  'row-by-row': 100,
  'row-lean': 100,
  'reconcile-100': 100,
  'reconcile-1000': 1_000,
  'reconcile-texts': 1_000,
  insert: 1_000,
  'copy-kept': 1_000,
  copy: 1_000,
};

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

/** A wide ticket and a line for each scan, with their usual indexes; no row security: in its favour. */
const pairOfTables = (tickets: string, scans: string) => `
  CREATE TABLE ${tickets} (LIKE tickets INCLUDING DEFAULTS INCLUDING INDEXES INCLUDING STORAGE);
  CREATE TABLE ${scans} (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), tenant_id uuid NOT NULL, gate text NOT NULL, epoch bigint NOT NULL, seq bigint NOT NULL,
    ticket_id text, event_id text, kind text NOT NULL, result text NOT NULL, hash bytea NOT NULL, entry text NOT NULL, scanned_at timestamptz NOT NULL, created_at timestamptz NOT NULL DEFAULT now());
  CREATE INDEX ON ${scans} (tenant_id, ticket_id, scanned_at DESC);`;
/** The writes of an earlier system: an index on the state, and the state's history by a trigger. */
const TABLES = `
  ${pairOfTables('lean_tickets', 'lean_scans')}
  ${pairOfTables('bench_tickets', 'bench_scans')}
  CREATE INDEX ON bench_tickets (tenant_id, status);
  CREATE TABLE bench_history (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant_id uuid NOT NULL, event_id text NOT NULL, ticket_id text NOT NULL, previous_status ticket_status, new_status ticket_status NOT NULL,
    changed_by text, actor_type text NOT NULL, reason text, source text NOT NULL, changed_at timestamptz NOT NULL DEFAULT now());
  CREATE INDEX ON bench_history (tenant_id, ticket_id, changed_at DESC);
  CREATE FUNCTION bench_log_status() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    INSERT INTO bench_history (tenant_id, event_id, ticket_id, previous_status, new_status, changed_by, actor_type, reason, source)
    VALUES (NEW.tenant_id, NEW.event_id, NEW.ticket_id, OLD.status, NEW.status, nullif(current_setting('app.current_user_id', true), ''), 'system', 'scan', 'scan');
    RETURN NULL;
  END
  $$;
  CREATE TRIGGER bench_log_status AFTER UPDATE ON bench_tickets FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION bench_log_status();
  CREATE TABLE bench_rows (tenant_id uuid NOT NULL, gate text NOT NULL, epoch bigint NOT NULL, seq bigint NOT NULL, kind text NOT NULL, hash bytea NOT NULL, entry text NOT NULL, at timestamptz NOT NULL, event_id text, ticket_id text);
  CREATE TABLE bench_kept (LIKE ledger_lines INCLUDING ALL);`;

async function rowByRow(database: Database, cell: Cell, rows: readonly LedgerRow[], tables: 'bench' | 'lean'): Promise<void> {
  await database.asOwner(async (client) => {
    for (const row of rows) {
      const { event_id, ticket_id, kind, ts } = row.entry as { event_id: string; ticket_id: string; kind: string; ts: string };
      const { rows: found } = await client.query<{ scan_count: number }>(
        `SELECT scan_count, status FROM ${tables}_tickets WHERE tenant_id = $1 AND event_id = $2 AND ticket_id = $3 FOR UPDATE`,
        [cell.venue.tenantId, event_id, ticket_id],
      );
      const result = kind !== 'grant' ? 'passage' : (found[0]?.scan_count ?? 0) === 0 ? 'success' : 'duplicate';
      await client.query(
        `INSERT INTO ${tables}_scans (tenant_id, gate, epoch, seq, ticket_id, event_id, kind, result, hash, entry, scanned_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
        [cell.venue.tenantId, row.gate, row.epoch, row.seq, ticket_id, event_id, kind, result, Buffer.from(row.hash, 'hex'), JSON.stringify(row.entry), ts],
      );
      await client.query(
        `UPDATE ${tables}_tickets SET scan_count = scan_count + ($4 = 'success')::integer, first_scanned_at = coalesce(first_scanned_at, $5), last_scanned_at = $5, status = 'checked_in', updated_at = now() WHERE tenant_id = $1 AND event_id = $2 AND ticket_id = $3`,
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

const COPY_INTO = {
  copy: 'bench_rows',
  'copy-kept': 'bench_kept (tenant_id, gate, epoch, seq, kind, hash, entry, at, event_id, ticket_id, readable)',
} as const;
const copyText = (cell: Cell, rows: readonly LedgerRow[], way: 'copy' | 'copy-kept') =>
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
        ...(way === 'copy-kept' ? ['t'] : []),
      ].join('\t'),
    )
    .join('\n');

interface Result {
  readonly rowsPerSecond: number;
  readonly walBytes: number;
  /** Processor time in PostgreSQL's backends and in the caller, µs a row: what other work on the machine hardly changes. */
  readonly serverUs: number;
  readonly callerUs: number;
  /** What the tables that a scan is written to and their indexes grew by, bytes a row. */
  readonly diskBytes: number;
}
const slow = (way: Way) => way === 'row-by-row' || way === 'row-lean';
/** Only reconciling needs a tenant of its own each time: the other ways write tables of the bench, and share one. */
const cells = new Map<string, Promise<Cell>>();
function cellOf(url: string, way: Way): Promise<Cell> {
  const count = slow(way) ? SLOW_ROWS : ROWS;
  if (way.startsWith('reconcile')) return makeCell(url, count, BATCH[way]);
  const key = `${count}/${BATCH[way]}`;
  const made = cells.get(key) ?? makeCell(url, count, BATCH[way]);
  cells.set(key, made);
  return made;
}
const wrong = { lost: 0, doubled: 0, failed: 0 };

async function measure(url: string, owner: OwnerConnection, database: Database, way: Way, clients: number): Promise<Result> {
  const cell = await cellOf(url, way);
  const folder = mkdtempSync('/var/tmp/stile-bench-');
  chmodSync(folder, 0o755);
  const tables = way === 'row-by-row' ? 'bench' : 'lean';
  if (slow(way)) {
    await owner.query(`DELETE FROM ${tables}_tickets WHERE tenant_id = $1`, [cell.venue.tenantId]);
    await owner.query(`VACUUM ${tables}_tickets`);
    await owner.query(`INSERT INTO ${tables}_tickets SELECT * FROM tickets WHERE tenant_id = $1`, [cell.venue.tenantId]);
  }
  if (way === 'copy' || way === 'copy-kept')
    for (const [index, rows] of cell.batches.entries()) writeFileSync(join(folder, String(index)), `${copyText(cell, rows, way)}\n`);
  let next = 0;
  const work = async () => {
    for (let index = next++; index < cell.batches.length; index = next++) {
      const rows = cell.batches[index] as readonly LedgerRow[];
      try {
        if (slow(way)) await rowByRow(database, cell, rows, tables);
        else if (way === 'insert') await insertBare(database, cell, rows);
        else if (way === 'copy' || way === 'copy-kept')
          await database.asOwner((client) => client.query(`COPY ${COPY_INTO[way]} FROM '${join(folder, String(index))}'`));
        else await database.withTenant(cell.venue.tenantId, (client) => reconcile(client, rows));
      } catch (error) {
        wrong.failed += 1;
        console.error(`  ${way}: ${(error as Error).message} ${(error as { where?: string }).where?.slice(0, 300) ?? ''}`);
      }
    }
  };
  const putBack = way === 'reconcile-texts' ? await textsInLines(owner) : null;
  const disk = await diskBytes(owner, way);
  // Connections are open before the clock runs.
  await Promise.all(Array.from({ length: clients }, () => database.withTenant(cell.venue.tenantId, (client) => client.query('SELECT pg_sleep(0.05)'))));
  const wal = await walPosition(owner);
  const spent = await backendUs(owner);
  const cpu = process.cpuUsage();
  const started = performance.now();
  await Promise.all(Array.from({ length: clients }, work));
  const seconds = (performance.now() - started) / 1000;
  const used = process.cpuUsage(cpu);
  const serverUs = usBetween(spent, await backendUs(owner));
  const walBytes = (await walPosition(owner)) - wal;
  const grown = (await diskBytes(owner, way)) - disk;
  await putBack?.();
  rmSync(folder, { recursive: true });
  if (way.startsWith('reconcile')) await check(owner, cell);
  const count = cell.rows.length;
  return {
    rowsPerSecond: count / seconds,
    walBytes: walBytes / count,
    serverUs: serverUs / count,
    callerUs: (used.user + used.system) / count,
    diskBytes: grown / count,
  };
}

/** Processor time by backend, in µs. Empty where the server is not on this machine, or this is not Linux. */
async function backendUs(owner: OwnerConnection): Promise<Map<number, number>> {
  const { rows } = await owner.query<{ pid: number }>("SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'stile'");
  const spent = new Map<number, number>();
  for (const { pid } of rows)
    try {
      spent.set(pid, Number(readFileSync(`/proc/${pid}/schedstat`, 'latin1').split(' ')[0]) / 1000);
    } catch {
      // Gone, or never here.
    }
  return spent;
}
/** NaN where nothing was counted. A backend that came or went between is left out. */
function usBetween(before: ReadonlyMap<number, number>, after: ReadonlyMap<number, number>): number {
  const both = [...after].filter(([pid]) => before.has(pid));
  return both.length === 0 ? Number.NaN : both.reduce((sum, [pid, spent]) => sum + spent - (before.get(pid) as number), 0);
}

/** Tables that each way writes a scan to. */
const WRITTEN = {
  'row-by-row': '^bench_(tickets|scans|history)$',
  'row-lean': '^lean_(tickets|scans)$',
  reconcile: '^(ledger_(lines|messages)_.*|ledgers|ledger_epochs|boots|admissions|ticket_usage|tickets|ticket_state_history|conflicts|gate_counts)$',
  insert: '^bench_rows$',
  copy: '^bench_rows$',
  'copy-kept': '^bench_kept$',
} as const;
const diskBytes = async (owner: OwnerConnection, way: Way) =>
  (
    await owner.query<{ bytes: number }>(
      "SELECT sum(pg_total_relation_size(oid))::bigint AS bytes FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname ~ $1",
      [WRITTEN[way.startsWith('reconcile') ? 'reconcile' : (way as keyof typeof WRITTEN)]],
    )
  ).rows[0]?.bytes ?? 0;

/** Makes reconcile_columns keep every text in its line, and answers how to put it back. */
async function textsInLines(owner: OwnerConnection): Promise<() => Promise<void>> {
  const { rows } = await owner.query<{ sql: string }>("SELECT pg_get_functiondef('reconcile_columns'::regproc) AS sql");
  const sql = rows[0]?.sql as string;
  const planted = sql.replaceAll('>= 3 THEN s.first END', '>= 1000000 THEN s.first END').replace('IF n > 3 THEN', 'IF false THEN');
  if (planted === sql) throw new Error('reconcile_columns has another text: adapt textsInLines');
  await owner.query(planted);
  return async () => {
    await owner.query(sql);
  };
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

/** Measures the caller's work for a row before PostgreSQL has it, in µs a row. */
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

const server = await startPostgres();
try {
  const admin = await connectOwner(server.url);
  // A database of its own, so that a server that was there before is left as it was.
  const name = `stile_bench_${randomBytes(4).toString('hex')}`;
  await admin.query(`CREATE DATABASE ${name}`);
  const url = Object.assign(new URL(server.url), { pathname: `/${name}` }).href;
  for (const setting of ["checkpoint_timeout = '1h'", "max_wal_size = '64GB'"]) await admin.query(`ALTER SYSTEM SET ${setting}`);
  await admin.query('SELECT pg_reload_conf()');
  const settings = await admin.query<{ name: string; setting: string }>(
    "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'synchronous_commit', 'server_version', 'shared_buffers', 'full_page_writes') ORDER BY name",
  );
  await migrate(url);
  const owner = await connectOwner(url);
  await owner.query(TABLES);
  const database = createDatabase({ url, maxConnections: Math.max(...CLIENTS) + 1, statementTimeoutMs: 120_000 });
  console.log(settings.rows.map(({ name, setting }) => `${name} ${setting}`).join(', '));
  console.log(`${ROWS} rows a cell (row by row ${SLOW_ROWS}), mix ${values.mix}, ${EXCESS * 100} % of the tickets twice, ${ROUNDS} rounds`);
  console.log(await callerCosts(url));
  const results = new Map<string, Result[]>();
  // One round that does not count: caches, and the machine code of both sides.
  for (const way of WAYS) await measure(url, owner, database, way, 1);
  for (let round = 0; round < ROUNDS; round++)
    for (const clients of CLIENTS)
      for (const way of WAYS) {
        const key = `${way}/${clients}`;
        results.set(key, [...(results.get(key) ?? []), await measure(url, owner, database, way, clients)]);
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
        [
          'way',
          'rows/s',
          '× row by row',
          '× row-lean',
          '× INSERT',
          '× COPY',
          'WAL bytes/row',
          '× row by row',
          '× row-lean',
          'server µs/row',
          '× row by row',
          'caller µs/row',
          'disk bytes/row',
          '× row by row',
        ],
        WAYS.map((way) => {
          const rate = median(way, clients, 'rowsPerSecond');
          const wal = median(way, clients, 'walBytes');
          return [
            way,
            rate.toFixed(0),
            ...(['row-by-row', 'row-lean', 'insert', 'copy'] as const).map((other) => ratio(rate, median(other, clients, 'rowsPerSecond'))),
            wal.toFixed(0),
            ratio(wal, median('row-by-row', clients, 'walBytes')),
            ratio(wal, median('row-lean', clients, 'walBytes')),
            median(way, clients, 'serverUs').toFixed(1),
            ratio(median('row-by-row', clients, 'serverUs'), median(way, clients, 'serverUs')),
            median(way, clients, 'callerUs').toFixed(1),
            median(way, clients, 'diskBytes').toFixed(0),
            ratio(median(way, clients, 'diskBytes'), median('row-by-row', clients, 'diskBytes')),
          ];
        }),
      ),
    );
  }
  const { rows } = await owner.query<{ deadlocks: number }>(
    'SELECT sum(deadlocks)::bigint AS deadlocks FROM pg_stat_database WHERE datname = current_database()',
  );
  console.log(`\ndeadlocks ${rows[0]?.deadlocks}, failed batches ${wrong.failed}, lost rows ${wrong.lost}, doubled rows ${wrong.doubled}`);
  await database.close();
  await owner.close();
  await admin.query(`DROP DATABASE ${name} WITH (FORCE)`);
  for (const setting of ['checkpoint_timeout', 'max_wal_size']) await admin.query(`ALTER SYSTEM RESET ${setting}`);
  await admin.close();
  if (wrong.failed + wrong.lost + wrong.doubled + (rows[0]?.deadlocks ?? 0) > 0) process.exitCode = 1;
} finally {
  await server.stop();
}
