/**
 * The same rows through the real thing: ingest and reconciliation on PostgreSQL, batch by batch as the simulated cloud took them, then
 * compared table by table with the reference account (I5, I7, I9 on the real SQL). Each fleet is a tenant and a site of its own, so one
 * database serves them all.
 */
import { createHash, randomUUID } from 'node:crypto';
import { connectOwner, createDatabase, type Database } from '../../cloud/db/database.ts';
import { createLedgerIntake, type LedgerIntake } from '../../cloud/ingest/ledger-intake.ts';
import { createQuarantine } from '../../cloud/ingest/quarantine.ts';
import { createSenders } from '../../cloud/ingest/sender-cache.ts';
import { acksFor } from '../../cloud/reconcile/acks.ts';
import { reconcile } from '../../cloud/reconcile/reconcile.ts';
import { readRow } from '../../cloud/reconcile/row.ts';
import { entryHash, firstPredecessor } from '../../contract/hash-chain.ts';
import { CLOUD_LEDGER, type Cloud } from './cloud-api.ts';
import { accountOf, type Counts, type Judged } from './counts.ts';
import { EVENT, HISTORIES_A_FLEET, isSoldLater, POLICIES, SALT, SITE, TICKETS_A_HISTORY, ticketOf } from './fixture.ts';
import { accountPolicy } from './fleet.ts';
import type { Invariant, MutantName, Violation } from './types.ts';

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');
/** Unix ms in PostgreSQL are kept to the microsecond, from a double of seconds. */
const TIME_STEP_MS = 0.002;

export interface RealAccount {
  /** Returns the differences between the tables and the reference account; none when they agree. */
  compare(cloud: Cloud, policy: number): Promise<Violation[]>;
  close(): Promise<void>;
}

export function openRealAccount(url: string, mutant: MutantName | null): RealAccount {
  const database = mutant === 'set-instead-of-set-local' ? forgetful(url) : createDatabase({ url, name: 'stile-sim', maxConnections: 2 });
  let fleets = 0;
  const prefix = randomUUID().slice(0, 8);
  return {
    async compare(cloud, policy) {
      fleets += 1;
      const site = `s${prefix}-${fleets}`;
      const tenantId = await makeTenant(url, site, cloud, policy);
      const names = renamed(cloud, site);
      await feed(database, tenantId, cloud, site, names);
      const found = await differences(database, tenantId, site, cloud, policy, names);
      const { rows } = await database.withoutTenant((client) => client.query<{ n: number }>('SELECT count(*) AS n FROM admissions'));
      if (rows[0]?.n !== 0) found.push(wrong('I9', `${rows[0]?.n} admissions of a tenant are seen by a connection that has none set`));
      return found;
    },
    close: () => database.close(),
  };
}

const wrong = (invariant: Invariant, what: string): Violation => ({ invariant, what: `PostgreSQL: ${what}`, atMs: 0 });

/** The mutant: one connection for everybody, and the tenant set for the session instead of the transaction. */
function forgetful(url: string): Database {
  const database = createDatabase({ url, name: 'stile-sim-forgetful', maxConnections: 1 });
  return {
    ...database,
    withTenant: (tenantId, work) =>
      database.withoutTenant(async (client) => {
        await client.query("SELECT set_config('app.current_tenant_id', $1, false)", [tenantId]);
        return work(client);
      }),
  };
}

async function makeTenant(url: string, site: string, cloud: Cloud, policy: number): Promise<string> {
  const tenantId = randomUUID();
  const gates = cloud.gates.map((gate) => gate.replace(SITE, site));
  const tickets = Array.from({ length: HISTORIES_A_FLEET * TICKETS_A_HISTORY }, (_, number) => number).flatMap((number) => {
    const known = cloud.accountTicket(`T-${number}`);
    return known === null && isSoldLater(number) ? [] : [{ ...ticketOf(number), vip: known?.vip ?? false }];
  });
  const owner = await connectOwner(url);
  try {
    await owner.query('BEGIN');
    await owner.query('SELECT set_tenant_context($1)', [tenantId]);
    await owner.query('INSERT INTO tenants (id, name) VALUES ($1, $2)', [tenantId, site]);
    await owner.query('INSERT INTO sites (tenant_id, site_id, name) VALUES ($1, $2, $2)', [tenantId, site]);
    await owner.query(
      "INSERT INTO devices (tenant_id, name, site_id, gate_id, enrolled_at) SELECT $1, g, split_part(g, '/', 1), split_part(g, '/', 2), now() FROM unnest($2::text[]) AS g",
      [tenantId, gates],
    );
    await owner.query("INSERT INTO events (tenant_id, event_id, site_id, name, salt, policies) VALUES ($1, $2, $3, $2, decode($4, 'hex'), $5)", [
      tenantId,
      EVENT,
      site,
      SALT,
      JSON.stringify(POLICIES[policy]),
    ]);
    await owner.query('INSERT INTO ticket_types (tenant_id, event_id, tier) VALUES ($1, $2, $3)', [tenantId, EVENT, 'standard']);
    await owner.query(
      `INSERT INTO tickets (tenant_id, event_id, ticket_id, ticket_ref, tier, max_scans, units, vip)
       SELECT $1, $2, t.id, decode(t.ref, 'hex'), 'standard', t.scans, t.units, t.vip FROM unnest($3::text[], $4::text[], $5::integer[], $6::integer[], $7::boolean[]) AS t (id, ref, scans, units, vip)`,
      [
        tenantId,
        EVENT,
        tickets.map((one) => one.ticket_id),
        tickets.map((one) => one.ticket_ref),
        tickets.map((one) => one.max_scans),
        tickets.map((one) => one.units),
        tickets.map((one) => one.vip),
      ],
    );
    await owner.query('COMMIT');
  } finally {
    await owner.close();
  }
  return tenantId;
}

interface Message {
  readonly gate: string;
  readonly epoch: number;
  readonly entries: (Record<string, unknown> & { seq: number; hash: string })[];
}

/** Everything that the simulated cloud took, in the same batches, under this fleet's own site: names stand in the rows and in the hashes, so the chains are made anew. */
interface Renamed {
  message(payload: Uint8Array): Message;
  /** The simulated identity of a row of PostgreSQL: ledger, epoch, seq and eight bytes of the hash. */
  keyOf(ledger: string, epoch: number, seq: number, hash8: string): string;
}

function renamed(cloud: Cloud, site: string): Renamed {
  const rename = <T>(value: T): T => JSON.parse(JSON.stringify(value).replaceAll(`"${SITE}/`, `"${site}/`)) as T;
  const hashes = new Map<string, string>();
  const former = new Map<string, string>();
  const hashOf = (ledger: string, epoch: unknown, seq: unknown, hash: string): string => hashes.get(`${ledger} ${epoch} ${seq} ${hash}`) ?? hash;
  /** `again` and `of` name hashes as well. */
  const reference = (ledger: string, value: unknown): unknown => {
    if (!Array.isArray(value) || !/^[0-9a-f]{64}$/.test(String(value.at(-1)))) return value;
    const [named, epoch, seq, hash] = (value.length === 4 ? value : [ledger, ...value]) as [string, number, number, string];
    return [...value.slice(0, -1), hashOf(named, epoch, seq, hash)];
  };
  const translate = (ledger: string, entry: Readonly<Record<string, unknown>>): Record<string, unknown> => {
    const made = rename(entry) as Record<string, unknown>;
    for (const field of ['again', 'of', 'winner']) if (made[field] !== undefined) made[field] = reference(ledger, made[field]);
    return made;
  };
  // Gates name older rows of their own, the cloud's ledger names theirs.
  for (const [ledger, epochs] of [...cloud.ledgers].sort(([a], [b]) => Number(a === CLOUD_LEDGER) - Number(b === CLOUD_LEDGER))) {
    const name = ledger.replace(SITE, site);
    for (const [epoch, rows] of [...epochs].sort(([a], [b]) => a - b)) {
      let previous = firstPredecessor(sha256, name, epoch);
      let at = 0;
      for (const row of [...rows.values()].sort((a, b) => a.seq - b.seq)) {
        // Behind a hole nobody knows the predecessor, here as there.
        const hash = row.seq === ++at ? entryHash(sha256, previous, translate(name, row.entry)) : row.hash;
        if (row.seq === at) previous = hash;
        else at = Number.NEGATIVE_INFINITY;
        hashes.set(`${name} ${epoch} ${row.seq} ${row.hash}`, hash);
        former.set(`${name} ${epoch} ${row.seq} ${hash.slice(0, 16)}`, row.hash.slice(0, 16));
      }
    }
  }
  return {
    message(payload) {
      const message = rename(JSON.parse(Buffer.from(payload).toString('utf8')) as Message);
      const entries = message.entries.map((entry) => {
        const { hash, ...rest } = translate(message.gate, entry) as Record<string, unknown> & { seq: number; hash: string };
        return { ...rest, hash: hashOf(message.gate, message.epoch, rest.seq, hash) };
      });
      return { ...message, entries };
    },
    keyOf: (ledger, epoch, seq, hash8) => `${ledger.replace(site, SITE)} ${epoch} ${seq} ${former.get(`${ledger} ${epoch} ${seq} ${hash8}`) ?? hash8}`,
  };
}

async function feed(database: Database, tenantId: string, cloud: Cloud, site: string, names: Renamed): Promise<void> {
  const silent = () => undefined;
  const log = { debug: silent, info: silent, warn: silent, error: silent } as never;
  const intake: LedgerIntake = createLedgerIntake({
    database,
    broker: { publish: async () => undefined } as never,
    senders: createSenders(database),
    quarantine: createQuarantine(database),
    reconciler: { readRow, reconcile, acksFor },
    log,
  });
  for (const batch of cloud.taken) {
    for (const { gate, payload } of batch) {
      const message = names.message(payload);
      if (gate === CLOUD_LEDGER) {
        // The cloud's own rows come by no topic.
        await intake.idle();
        const rows = message.entries.map((entry) => readRow(message.gate, message.epoch, entry)).filter((row) => row !== null);
        await database.withTenant(tenantId, (client) => reconcile(client, rows));
        continue;
      }
      const topicGate = gate.replace(SITE, site);
      intake.take(topicGate, {
        topic: `stile/1/${topicGate}/ledger`,
        payload: Buffer.from(JSON.stringify(message)),
        qos: 1,
        retain: false,
        acknowledge: silent,
      });
    }
    await intake.idle();
  }
  await intake.close();
}

interface AdmissionRow {
  readonly gate: string;
  readonly epoch: number;
  readonly seq: number;
  readonly hash8: string;
  readonly ticket_id: string;
  readonly direction: string;
  readonly used: number;
  readonly uncertain: number;
  readonly outcome: string;
  readonly verdict: string;
  readonly cause: string | null;
  readonly overlapping: boolean;
  readonly placed: boolean;
  readonly at_ms: number;
}

async function differences(database: Database, tenantId: string, site: string, cloud: Cloud, policy: number, names: Renamed): Promise<Violation[]> {
  const found: Violation[] = [];
  const account = accountOf(cloud.originals(), cloud.accountTicket, accountPolicy(policy));
  await database.withTenant(tenantId, async (client) => {
    const local = (name: string): string => name.replace(site, SITE);
    const admissions = await client.query<AdmissionRow>(
      `SELECT coalesce(original_gate, gate) AS gate, coalesce(original_epoch, epoch) AS epoch, coalesce(original_seq, seq) AS seq, encode(int8send(hash8), 'hex') AS hash8, ticket_id, direction, units_used AS used, units_uncertain AS uncertain, outcome, verdict, cause, overlapping, placed,
         (extract(epoch FROM at) * 1000)::double precision AS at_ms FROM admissions WHERE granted`,
    );
    const theirs = new Map(admissions.rows.map((row) => [names.keyOf(row.gate, row.epoch, row.seq, row.hash8), row]));
    const ours = [...account.tickets.values()].flat();
    if (theirs.size !== ours.length) found.push(wrong('I5', `${theirs.size} admissions, the reference has ${ours.length}`));
    for (const one of ours) compareAdmission(found, one, theirs.get(one.key));

    const named = (side: string) =>
      `coalesce(${side}.original_gate, ${side}.gate) AS ${side}_gate, coalesce(${side}.original_epoch, ${side}.epoch) AS ${side}_epoch, coalesce(${side}.original_seq, ${side}.seq) AS ${side}_seq, encode(int8send(${side}.hash8), 'hex') AS ${side}_hash8`;
    const joined = (side: string) =>
      `JOIN admissions ${side} ON ${side}.gate = c.${side}_gate AND ${side}.epoch = c.${side}_epoch AND ${side}.seq = c.${side}_seq AND ${side}.event_id = c.event_id AND ${side}.ticket_id = c.ticket_id`;
    const conflicts = await client.query<Record<string, string | number | null>>(
      `SELECT c.cause, ${named('loser')}, ${named('winner')} FROM conflicts c ${joined('loser')} LEFT ${joined('winner')}`,
    );
    const keyAt = (row: Record<string, string | number | null>, side: string): string =>
      row[`${side}_gate`] === null
        ? ''
        : names.keyOf(String(row[`${side}_gate`]), Number(row[`${side}_epoch`]), Number(row[`${side}_seq`]), String(row[`${side}_hash8`]));
    const told = conflicts.rows.map((row) => `${keyAt(row, 'loser')} ${row['cause']} ${keyAt(row, 'winner')}`).sort();
    const due = ours
      .filter((one) => one.verdict === 'excess')
      .map((one) => `${one.key} ${one.cause} ${account.tickets.get(one.ticketId)?.find((other) => other.verdict === 'winner')?.key ?? ''}`)
      .sort();
    if (told.join('\n') !== due.join('\n')) found.push(wrong('I4', `conflicts are ${JSON.stringify(told)}, the reference has ${JSON.stringify(due)}`));

    const counts = await client.query<Record<string, number | string>>('SELECT * FROM gate_counts');
    const checksums = new Map(counts.rows.map((row) => [`${local(String(row['gate']))} ${row['event_id']}`, row]));
    for (const [key, one] of account.counts) compareCounts(found, key, one, checksums.get(key));

    const usage = await client.query<{ ticket_id: string; entries: number }>('SELECT ticket_id, entries FROM ticket_usage');
    for (const { ticket_id, entries } of usage.rows) {
      const held = (account.tickets.get(ticket_id) ?? []).filter((one) => one.verdict === 'winner' || one.verdict === 'reentry').length;
      if (held !== entries) found.push(wrong('I7', `${ticket_id} has ${entries} entries, the reference has ${held}`));
    }
    const epochs = await client.query<{ gate: string; epoch: number; upto_seq: number }>('SELECT gate, epoch, upto_seq FROM ledger_epochs');
    for (const { gate, epoch, upto_seq } of epochs.rows)
      if (cloud.upto(local(gate), epoch) !== upto_seq)
        found.push(wrong('I1', `${gate} ${epoch} is stored up to ${upto_seq}, the reference has ${cloud.upto(local(gate), epoch)}`));
    const stored = await client.query<{ n: number }>('SELECT count(*) AS n FROM ledger_rows');
    if (stored.rows[0]?.n !== cloud.rows().length) found.push(wrong('I1', `${stored.rows[0]?.n} rows are stored, the reference has ${cloud.rows().length}`));
    const breaks = await client.query<{ n: number }>('SELECT count(*) AS n FROM ledger_breaks');
    if (breaks.rows[0]?.n !== 0) found.push(wrong('I3', `${breaks.rows[0]?.n} breaks of a chain`));
  });
  return found;
}

function compareAdmission(found: Violation[], ours: Judged, theirs: AdmissionRow | undefined): void {
  if (theirs === undefined) {
    found.push(wrong('I5', `admission ${ours.key} is missing`));
    return;
  }
  const a = [ours.ticketId, ours.direction, ours.used, ours.uncertain, ours.outcome, ours.verdict, ours.cause, ours.overlapping, ours.placed];
  const b = [
    theirs.ticket_id,
    theirs.direction,
    theirs.used,
    theirs.uncertain,
    theirs.outcome,
    theirs.verdict,
    theirs.cause,
    theirs.overlapping,
    theirs.placed,
  ];
  if (a.join() !== b.join()) found.push(wrong(ours.verdict === theirs.verdict ? 'I5' : 'I10', `${ours.key} is [${b.join()}], the reference has [${a.join()}]`));
  if (Math.abs(ours.atMs - theirs.at_ms) > TIME_STEP_MS) found.push(wrong('I10', `${ours.key} lies at ${theirs.at_ms}, the reference has ${ours.atMs}`));
}

const COLUMNS: Readonly<Record<keyof Counts, string>> = {
  grants: 'grants',
  winners: 'winners',
  reentries: 'reentries',
  exits: 'exits',
  excess: 'excess',
  annulled: 'annulled',
  entered: 'entered',
  exited: 'exited',
  uncertain: 'uncertain',
  free: 'free_passages',
  forced: 'forced_passages',
  overrides: 'overrides',
  refusals: 'refusals',
  freeOut: 'free_out',
  forcedOut: 'forced_out',
  overridesOut: 'overrides_out',
};
function compareCounts(found: Violation[], key: string, ours: Counts, theirs: Record<string, number | string> | undefined): void {
  for (const [name, column] of Object.entries(COLUMNS) as [keyof Counts, string][]) {
    const there = Number(theirs?.[column] ?? 0);
    if (there !== ours[name]) found.push(wrong('I7', `${key}: ${there} ${column}, the reference has ${ours[name]}`));
  }
}

/** Mutants of the SQL: text of a function, right and wrong. */
export const SQL_MUTANTS: Readonly<Partial<Record<MutantName, readonly [name: string, right: string, wrong: string]>>> = {
  'arrival-order-ranks': [
    'evaluate_tickets',
    'ORDER BY c.event_id, c.ticket_id, c.at, c.gate COLLATE "C", c.epoch, c.seq\n  LOOP',
    'ORDER BY c.event_id, c.ticket_id, (SELECT arrived.received_at FROM ledger_rows arrived WHERE arrived.tenant_id = tenant AND arrived.gate = c.gate AND arrived.epoch = c.epoch AND arrived.seq = c.seq LIMIT 1), c.gate COLLATE "C", c.epoch, c.seq\n  LOOP',
  ],
  'excess-not-reported': ['store_verdicts', "WHERE g.verdict = 'excess'\n  UNION ALL", "WHERE g.verdict = 'excess' AND false\n  UNION ALL"],
  'returned-still-counts': ['outcome_of_rank', "ARRAY['unknown', 'stuck', 'returned', 'passed']", "ARRAY['unknown', 'stuck', 'passed', 'passed']"],
};

/** Plants a mistake in the functions of a database that is nobody else's. */
export async function plant(database: Database, mutant: MutantName): Promise<void> {
  const mistake = SQL_MUTANTS[mutant];
  if (mistake === undefined) return;
  const [name, right, planted] = mistake;
  await database.asOwner(async (client) => {
    const { rows } = await client.query<{ sql: string }>('SELECT pg_get_functiondef($1::regproc) AS sql', [name]);
    const sql = rows[0]?.sql.replace(right, planted) ?? '';
    if (sql === rows[0]?.sql) throw new Error(`${mutant}: the text to be replaced is not in ${name} any more`);
    await client.query(sql);
  });
}
