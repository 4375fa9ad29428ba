/**
 * Writes the cloud's own ledgers of a site, numbered and chained like any gate's: `<site>/cloud` (settlements, conflicts) and `<site>/@<device>` (what
 * each scanner reported). Rows are made under the ledger's lock, so that any number of machines may write.
 */
import { entryHash, firstPredecessor } from '../../contract/hash-chain.ts';
import { CLOUD_GATE, isCloudLedger } from '../../contract/ids.ts';
import { LedgerEntry } from '../../contract/ledger.ts';
import { explain, Reason } from '../../contract/reasons.ts';
import { describeIssue } from '../../contract/schema-errors.ts';
import type { DatabaseClient } from '../db/database.ts';
import { type Reconciled, reconcile, sha256 } from './reconcile.ts';
import { type LedgerRow, readRow } from './row.ts';

/** A row without the fields that the ledger adds: seq, hash, times. */
export type CloudEntry = { readonly kind: 'grant' | 'refusal' | 'claim' | 'passage' | 'settlement' | 'conflict' | 'override' } & Readonly<
  Record<string, unknown>
>;

export interface AppendOptions {
  /** Time of the event, Unix ms. Default: now. */
  readonly atMs?: number;
  /** Uncertainty of that time, in ms either way. Default 0. */
  readonly boundMs?: number;
  /** The clock that measured it: rows of one clock share one bound, the smallest. Default `cloud`; a scanner's: its name, `<site>/<device>`. */
  readonly bootId?: string;
  /** `atMs` minus what that clock showed. Default 0. */
  readonly offsetMs?: number;
}

export interface Appended {
  readonly ledger: string;
  readonly epoch: number;
  readonly rows: readonly LedgerRow[];
  readonly reconciled: Reconciled;
}

export type NewCloudEntry = CloudEntry & { readonly at?: AppendOptions };

/** Rows of the cloud in one call; more is a RangeError. */
const MAX_APPENDED_ROWS = 10_000;

/**
 * Appends rows to `<site>/cloud`, or to a scanner's ledger, and judges them, in the caller's transaction; all or none. Publish them on the ledger's topic after the commit
 * (`unpublishedCloudRows`). Throws a TypeError for an invalid entry.
 */
export async function appendCloudRows(
  client: DatabaseClient,
  site: string,
  /** A function receives the row's own place, to refer to the row that was appended just before it. */
  entries: readonly (NewCloudEntry | ((place: readonly [epoch: number, seq: number]) => NewCloudEntry))[],
  /** `device`: a scanner of the site, `<site>/<device>`; its rows go to its own ledger, `<site>/@<device>`. */
  { device, ...options }: AppendOptions & { readonly device?: string } = {},
): Promise<Appended> {
  if (entries.length > MAX_APPENDED_ROWS) throw new RangeError(`${entries.length} rows, at most ${MAX_APPENDED_ROWS} in one call`);
  const { ledger, epoch, seq, hash } = await lockTail(client, site, device);
  const rows: LedgerRow[] = [];
  let previous = hash ?? firstPredecessor(sha256, ledger, epoch);
  for (const [index, given] of entries.entries()) {
    const { at, ...entry } = typeof given === 'function' ? given([epoch, seq + index + 1]) : given;
    const when = { ...options, ...at };
    const atMs = Math.max(0, when.atMs ?? Date.now());
    const row: Record<string, unknown> = {
      ...entry,
      seq: seq + index + 1,
      ts: new Date(atMs).toISOString(),
      boot_id: when.bootId ?? CLOUD_GATE,
      boottime_ms: Math.max(0, atMs - (when.offsetMs ?? 0)),
      clock_offset_ms: atMs - Math.max(0, atMs - (when.offsetMs ?? 0)),
      clock_bound_ms: when.boundMs ?? 0,
    };
    const why = hashed(row, previous);
    // A refusal whose texts cannot be written is written without them.
    if (why !== null && (entry.kind !== 'refusal' || hashed(withoutTexts(row), previous) !== null)) throw new TypeError(`a ${entry.kind} of the cloud: ${why}`);
    previous = row['hash'] as string;
    rows.push(readRow(ledger, epoch, JSON.parse(JSON.stringify(row))) as LedgerRow);
  }
  return { ledger, epoch, rows, reconciled: await reconcile(client, rows) };
}

/** Sets the hash of the row. Returns its error, or null. */
function hashed(row: Record<string, unknown>, previous: string): string | null {
  try {
    row['hash'] = entryHash(sha256, previous, row);
  } catch (error) {
    return (error as Error).message;
  }
  const issue = LedgerEntry.safeParse(row).error?.issues[0];
  return issue === undefined ? null : `${issue.path.map(String).join('.')}: ${describeIssue(issue)}`;
}

/** Reduces a refusal, in place, to the contract's own text for its reason, without anything that people wrote. */
function withoutTexts(row: Record<string, unknown>): Record<string, unknown> {
  const reason = Reason.safeParse(row['reason']).data ?? 'error';
  delete row['facts'];
  delete row['valid_again_at'];
  return Object.assign(row, { reason, explanation: explain(reason) });
}

/**
 * Locks the cloud's ledger of a site, or of one of its scanners, until the transaction ends, creating it where there is none: the first lock of every
 * writer that must read before it appends. Returns its name: a site's 501st scanner writes to `<site>/cloud`.
 */
export async function lockCloudLedger(client: DatabaseClient, site: string, device?: string): Promise<string> {
  const { rows } = await client.query<{ ledger: string }>('SELECT lock_cloud_ledger($1, $2) AS ledger', [site, device ?? null]);
  return (rows[0] as { ledger: string }).ledger;
}

/** Locks the ledger and returns its last row; a new epoch begins where the last one cannot be gone on with (cloud_ledger_tail). */
async function lockTail(
  client: DatabaseClient,
  site: string,
  device: string | undefined,
): Promise<{ ledger: string; epoch: number; seq: number; hash: string | null }> {
  const ledger = await lockCloudLedger(client, site, device);
  const { rows } = await client.query<{ epoch: number; seq: number; hash: string | null }>('SELECT epoch, seq, hash FROM cloud_ledger_tail($1)', [ledger]);
  return { ledger, ...(rows[0] as (typeof rows)[0]) };
}

export interface Settlement {
  /** [gate, epoch, seq] of the grant. */
  readonly of: readonly [gate: string, epoch: number, seq: number];
  readonly outcome: 'passed' | 'returned';
  readonly actor: string;
  readonly reason: string;
  /** Absent: every unit. */
  readonly unit?: number;
  /** Overrules a measured passage; the row records it. */
  readonly force?: boolean;
}

export type SettleRefusal = { readonly ok: false; readonly code: 'NO_SUCH_GRANT' | 'PASSAGE_KNOWN'; readonly message: string };

/**
 * Appends an operator's settlement of a grant. Refuses an unknown grant (a disconnected gate may still have it), and, without `force`, one whose
 * passage was measured: the sensor saw the guest. A repeated settlement adds a row and changes nothing.
 */
export async function settle(client: DatabaseClient, settlement: Settlement): Promise<({ readonly ok: true } & Appended) | SettleRefusal> {
  const [gate, epoch, seq] = settlement.of;
  const { rows } = await client.query<{ event_id: string; ticket_id: string; ticket_ref: string; direction: 'in' | 'out'; site_id: string; measured: boolean }>(
    // The passage is known from the admission too: its row may be detached with its month. 3: returned, 4: passed.
    `SELECT coalesce(a.word_1 IN (3, 4), false) OR coalesce(a.word_all IN (3, 4), false) AS measured, a.event_id, a.ticket_id, encode(a.ticket_ref, 'hex') AS ticket_ref, a.direction, l.site_id FROM admissions a JOIN ledgers l ON l.tenant_id = a.tenant_id AND l.gate = a.gate
     WHERE a.tenant_id = current_tenant_id() AND a.gate = $1 AND a.epoch = $2 AND a.seq = $3 AND a.granted`,
    [gate, epoch, seq],
  );
  const grant = rows[0];
  if (grant === undefined) return { ok: false, code: 'NO_SUCH_GRANT', message: `there is no grant ${gate} ${epoch}/${seq}` };
  const { site_id, measured: known, ...ticket } = grant;
  // Before the passages are read: a settlement waits for its turn, and reads what came meanwhile.
  await lockCloudLedger(client, site_id);
  const passages = await measuredPassages(client, settlement, grant);
  const measured = passages.length === 0 && known && !isCloudLedger(gate) ? ['its row is detached'] : passages;
  if (measured.length > 0 && settlement.force !== true)
    return {
      ok: false,
      code: 'PASSAGE_KNOWN',
      message: `the passage of ${gate} ${epoch}/${seq} is known (${measured.join(', ')}): settling it overrules the sensor; with force if that is meant`,
    };
  const appended = await appendCloudRows(client, site_id, [
    {
      kind: 'settlement',
      of: [gate, epoch, seq],
      outcome: settlement.outcome,
      actor: settlement.actor,
      reason: settlement.reason,
      ...ticket,
      ...(settlement.unit === undefined ? {} : { unit: settlement.unit }),
      ...(measured.length === 0 ? {} : { force: true }),
    },
  ]);
  return { ok: true, ...appended };
}

/** Returns the measured outcomes of a grant, as texts. A scanner has no sensor: its own answer measures nothing. */
async function measuredPassages(
  client: DatabaseClient,
  { of: [gate, epoch, seq], unit }: Settlement,
  { event_id, ticket_id }: { readonly event_id: string; readonly ticket_id: string },
): Promise<string[]> {
  if (isCloudLedger(gate)) return [];
  const { rows } = await client.query<{ entry: string }>(
    `SELECT entry FROM ledger_rows WHERE tenant_id = current_tenant_id() AND ticket_id = $3 AND event_id = $2 AND kind = 'passage' AND readable AND gate = $1 ORDER BY epoch, seq`,
    [gate, event_id, ticket_id],
  );
  const passages = rows.map(({ entry }) => JSON.parse(entry) as { of?: readonly unknown[]; unit?: number; outcome?: string });
  return passages
    .filter(({ of, outcome }) => of?.[0] === epoch && of[1] === seq && (outcome === 'passed' || outcome === 'returned'))
    .filter((passage) => unit === undefined || passage.unit === undefined || passage.unit === unit)
    .map((passage) => `${passage.unit === undefined ? '' : `guest ${passage.unit} `}${passage.outcome}`);
}

export interface CloudRows {
  readonly ledger: string;
  readonly epoch: number;
  readonly entries: readonly Readonly<Record<string, unknown>>[];
}

/** Returns committed, unpublished rows of the cloud's ledgers, at most `limit` of each epoch, in order. */
export async function unpublishedCloudRows(client: DatabaseClient, limit = 100): Promise<CloudRows[]> {
  const { rows } = await client.query<{ gate: string; epoch: number; entries: { entry: string; hash: string }[] }>('SELECT * FROM unpublished_cloud_rows($1)', [
    limit,
  ]);
  return rows.map(({ gate, epoch, entries }) => ({
    ledger: gate,
    epoch,
    entries: entries.map(({ entry, hash }) => ({ ...(JSON.parse(entry) as Record<string, unknown>), hash })),
  }));
}

/** Marks rows up to this one as published; never goes back. */
export async function markPublished(client: DatabaseClient, ledger: string, epoch: number, seq: number): Promise<void> {
  await client.query(
    'UPDATE ledger_epochs SET published_seq = greatest(published_seq, $3) WHERE tenant_id = current_tenant_id() AND gate = $1 AND epoch = $2',
    [ledger, epoch, seq],
  );
}
