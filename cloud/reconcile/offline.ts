/**
 * What scanners decided while they were away (`POST /offline/reconcile`): rows of the site's cloud ledger, appended and judged in one
 * transaction. Nothing is decided again: an ALLOW is an entry that happened. The first scan by its time wins, whatever arrives first.
 */
import type { z } from 'zod';
import { OfflineScan, type ReconcileResponse, type ReconcileResult } from '../../contract/http.ts';
import { CLOUD_GATE, splitGateName } from '../../contract/ids.ts';
import { explain, Reason } from '../../contract/reasons.ts';
import { cutText } from '../../contract/text.ts';
import { wordsOf } from '../../contract/words.ts';
import type { DatabaseClient } from '../database.ts';
import { appendCloudRows, lockCloudLedger } from './cloud-ledger.ts';
import { grantRow, passedRow } from './scan.ts';

/** How far a scanner's clock is believed to be off at most, in ms either way: phones and tablets set theirs by the network. Overlaps within it are flagged. */
export const SCANNER_CLOCK_BOUND_MS = 5_000;
/** A scan from farther in the future than this is an error of the scanner's clock, in ms. */
const MAX_AHEAD_MS = 24 * 3_600_000;
/** Older scans are not taken: their keys are kept a little longer (scan_keys_kept_for, migration 0512), so that none counts twice. In ms. */
const MAX_AGE_MS = 366 * 24 * 3_600_000;
/** Scans appended and judged in one statement, two rows each: the plans of the account are made for a thousand rows. */
const SCANS_AT_ONCE = 500;

export type OfflineAnswer = z.infer<typeof ReconcileResponse>;
type Result = z.infer<typeof ReconcileResult>;
type Scan = z.infer<typeof OfflineScan>;

interface Ticket {
  readonly event_id: string;
  readonly ticket_id: string;
  readonly ticket_ref: string;
  readonly units: number;
  /** Units that are in already. */
  readonly entered: number;
  readonly version: number;
}
interface Item {
  readonly index: number;
  readonly scan: Scan;
  /** As the scanner says, and when it happened at the latest: what is said to be in the future happened by now. */
  readonly scannedMs: number;
  readonly atMs: number;
  readonly key: string;
}
interface Recorded extends Item {
  readonly ticket: Ticket;
}

/** Every scan is answered, in the order given; one that cannot be taken undoes no other. In the caller's transaction; sent again it changes nothing. */
export async function reconcileOffline(client: DatabaseClient, device: string, scans: readonly unknown[], nowMs: number): Promise<OfflineAnswer> {
  const results: Result[] = [];
  const items: Item[] = [];
  for (const [index, given] of scans.entries()) {
    const read = readScan(given, index, nowMs);
    if (typeof read === 'string') results[index] = { ticket_id: idOf(given), status: 'ERROR', message: read };
    else items.push(read);
  }
  const { site } = splitGateName(device);
  await lockCloudLedger(client, site);
  const fresh = await withoutKnown(client, device, items, results);
  const tickets = await findTickets(client, device, site, fresh);
  const recorded: Recorded[] = [];
  for (const item of fresh) {
    const ticket = ticketOf(tickets, item.scan);
    if (typeof ticket === 'string') results[item.index] = { ticket_id: item.scan.ticket_id, status: 'ERROR', message: ticket };
    else recorded.push({ ...item, ticket });
  }
  recorded.sort((a, b) => a.scannedMs - b.scannedMs || a.index - b.index);
  const places = await append(client, device, site, recorded);
  await keep(client, device, site, recorded, places);
  await judged(client, site, recorded, places, results);
  const failed = results.filter(({ status }) => status === 'ERROR').length;
  return { success: true, reconciled: results.length - failed, failed, results };
}

const idOf = (given: unknown): string | null => {
  const id = (given as { ticket_id?: unknown } | null)?.ticket_id;
  return typeof id === 'string' ? cutText(id, 64) : null;
};

function readScan(given: unknown, index: number, nowMs: number): Item | string {
  const read = OfflineScan.safeParse(given);
  if (!read.success) {
    const issue = read.error.issues[0];
    return `scans.${[index, ...(issue?.path ?? [])].map(String).join('.')}: ${issue === undefined ? 'is wrong' : wordsOf(issue)}`;
  }
  const scan = read.data;
  const scannedMs = Date.parse(scan.scanned_at);
  if (Number.isNaN(scannedMs)) return `scans.${index}.scanned_at: ${scan.scanned_at} is no time of a scan: set the scanner's clock`;
  if (scannedMs < nowMs - MAX_AGE_MS) return `scans.${index}.scanned_at: ${scan.scanned_at} is more than a year ago: set the scanner's clock`;
  if (scannedMs > nowMs + MAX_AHEAD_MS) return `scans.${index}.scanned_at: ${scan.scanned_at} lies in the future: set the scanner's clock`;
  // PostgreSQL keeps neither U+0000 nor half a surrogate pair.
  if (scan.scan_id !== undefined && (!scan.scan_id.isWellFormed() || scan.scan_id.includes('\0'))) return `scans.${index}.scan_id: is not plain text`;
  const key = scan.scan_id === undefined ? `at ${scan.ticket_id} ${scannedMs} ${scan.result}` : `id ${scan.scan_id}`;
  return { index, scan, scannedMs, atMs: Math.min(scannedMs, nowMs), key };
}

/** Repeats of what was taken in before, or stands in this batch already, are answered; the others are new. */
async function withoutKnown(client: DatabaseClient, device: string, items: readonly Item[], results: Result[]): Promise<Item[]> {
  const { rows } = await client.query<{ scan_key: string; ticket_id: string | null; result: string }>(
    'SELECT scan_key, ticket_id, result FROM device_scans WHERE tenant_id = current_tenant_id() AND device = $1 AND scan_key = ANY ($2)',
    [device, items.map(({ key }) => key)],
  );
  const known = new Map(rows.map(({ scan_key, ticket_id, result }) => [scan_key, { ticketId: ticket_id, result }]));
  return items.filter(({ index, scan, key }) => {
    const before = known.get(key);
    known.set(key, before ?? { ticketId: scan.ticket_id, result: scan.result });
    if (before === undefined) return true;
    const same = before.ticketId === scan.ticket_id && before.result === scan.result;
    results[index] = same
      ? { ticket_id: scan.ticket_id, status: 'DUPLICATE', message: 'known already' }
      : { ticket_id: scan.ticket_id, status: 'ERROR', message: `scans.${index}.scan_id: ${scan.scan_id} was used for another scan` };
    return false;
  });
}

/** Tickets by their id, of events at the device's site: first of those that it is assigned. */
async function findTickets(client: DatabaseClient, device: string, site: string, items: readonly Item[]): Promise<Map<string, Ticket[]>> {
  const { rows } = await client.query<Ticket & { assigned: boolean }>(
    `SELECT e.event_id, t.ticket_id, encode(t.ticket_ref, 'hex') AS ticket_ref, t.units, e.version, CASE WHEN coalesce(u.entries, 0) = 0 THEN 0 WHEN t.units = 1 THEN 1 ELSE
         (SELECT coalesce(sum(a.units_used), 0)::integer FROM admissions a WHERE a.tenant_id = t.tenant_id AND a.event_id = t.event_id AND a.ticket_id = t.ticket_id AND a.verdict IN ('winner', 'reentry')) END AS entered,
       EXISTS (SELECT FROM gate_assignments g WHERE g.tenant_id = e.tenant_id AND g.gate = $1 AND g.event_id = e.event_id) AS assigned
     FROM events e CROSS JOIN LATERAL (SELECT * FROM tickets x WHERE x.tenant_id = e.tenant_id AND x.event_id = e.event_id AND x.ticket_id = ANY ($3) OFFSET 0) AS t
     LEFT JOIN LATERAL (SELECT y.entries FROM ticket_usage y WHERE y.tenant_id = t.tenant_id AND y.event_id = t.event_id AND y.ticket_id = t.ticket_id LIMIT 1) AS u ON true
     WHERE e.tenant_id = current_tenant_id() AND e.site_id = $2 ORDER BY e.event_id`,
    [device, site, [...new Set(items.map(({ scan }) => scan.ticket_id))]],
  );
  return new Map(
    [...Map.groupBy(rows, ({ ticket_id }) => ticket_id)].map(([id, list]) => {
      const assigned = list.filter((ticket) => ticket.assigned);
      return [id, assigned.length > 0 ? assigned : list];
    }),
  );
}

function ticketOf(tickets: ReadonlyMap<string, readonly Ticket[]>, scan: Scan): Ticket | string {
  const all = tickets.get(scan.ticket_id) ?? [];
  const list = scan.event_id === undefined ? all : all.filter(({ event_id }) => event_id === scan.event_id);
  if (list[0] === undefined) return 'Ticket not found';
  return list.length === 1 ? list[0] : `a ticket of several events (${list.map(({ event_id }) => event_id).join(', ')}): say which with event_id`;
}

type Place = readonly [epoch: number, seq: number];

/** Answers the place of each scan's row. */
async function append(client: DatabaseClient, device: string, site: string, recorded: readonly Recorded[]): Promise<Place[]> {
  const places: Place[] = [];
  const entered = new Map<string, number>();
  for (let from = 0; from < recorded.length; from += SCANS_AT_ONCE) {
    const part = recorded.slice(from, from + SCANS_AT_ONCE);
    const entries = part.flatMap((item) => rowsOf(item, device, entered));
    const { epoch, rows } = await appendCloudRows(client, site, entries, { bootId: device, boundMs: SCANNER_CLOCK_BOUND_MS });
    for (const { seq, entry } of rows) if (entry['kind'] !== 'passage') places.push([epoch, seq]);
  }
  return places;
}

/** `entered`: units that were admitted earlier in this batch, by ticket; the type of a grant only tells, it decides nothing. */
function rowsOf({ scan, atMs, ticket }: Recorded, device: string, entered: Map<string, number>): Parameters<typeof appendCloudRows>[2] {
  const at = { atMs };
  const about = { event_id: ticket.event_id, ticket_id: ticket.ticket_id, ticket_ref: ticket.ticket_ref };
  const who = { device, ...(scan.scan_id === undefined ? {} : { scan_id: scan.scan_id }) };
  if (scan.result === 'DENY') {
    const reason = reasonOf(scan.reason);
    return [{ kind: 'refusal', reason, explanation: scan.reason ?? explain(reason), direction: scan.direction, ...about, ...who, at }];
  }
  const units = scan.units ?? ticket.units;
  const key = `${ticket.event_id} ${ticket.ticket_id}`;
  const before = entered.get(key) ?? ticket.entered;
  // The later ones of a party come for the first time too.
  const again = before >= ticket.units;
  if (scan.direction === 'in') entered.set(key, before + units);
  const grant = grantRow({
    type: scan.direction === 'out' ? 'exit' : again ? 'reentry' : 'first_entry',
    direction: scan.direction,
    units,
    medium: 'opaque',
    // Versions follow the clock: judged by the policies that were in force when it was scanned.
    manifestVersion: Math.max(0, Math.min(ticket.version, Math.floor(atMs / 1000))),
    online: false,
    latencyUs: 0,
  });
  return [{ ...grant, ...about, ...who, at }, passedRow({ ...about, direction: scan.direction }, units, at)];
}

/** Other systems' words for a refusal; what none of them says was refused by some rule of the scanner's. */
const REASON_WORDS: Readonly<Record<string, Reason>> = {
  already_used: 'already_redeemed',
  already_scanned: 'already_redeemed',
  duplicate: 'already_redeemed',
  used: 'already_redeemed',
  cancelled: 'canceled',
  refunded: 'canceled',
  expired: 'invalid_time',
  not_yet_valid: 'invalid_time',
  wrong_zone: 'zone',
  wrong_tier: 'product',
  not_found: 'invalid',
  unknown: 'invalid',
};
function reasonOf(text: string | undefined): Reason {
  const word = (text ?? '')
    .trim()
    .toLowerCase()
    .replace(/[^a-z]+/g, '_')
    .replace(/^_|_$/g, '');
  const own = Reason.safeParse(word);
  return own.success ? own.data : Object.hasOwn(REASON_WORDS, word) ? (REASON_WORDS[word] as Reason) : 'rules';
}

async function keep(client: DatabaseClient, device: string, site: string, recorded: readonly Recorded[], places: readonly Place[]): Promise<void> {
  if (recorded.length === 0) return;
  const rows = recorded.map(({ key, scan, ticket, scannedMs }, n) => ({
    scan_key: key,
    epoch: places[n]?.[0],
    seq: places[n]?.[1],
    event_id: ticket.event_id,
    ticket_id: ticket.ticket_id,
    result: scan.result,
    scanned_at: new Date(scannedMs).toISOString(),
    scan_count: scan.scan_count ?? null,
  }));
  await client.query(
    `INSERT INTO device_scans (tenant_id, device, scan_key, online, gate, epoch, seq, event_id, ticket_id, result, scanned_at, scan_count)
     SELECT current_tenant_id(), $1, r.scan_key, false, $2, r.epoch, r.seq, r.event_id, r.ticket_id, r.result, r.scanned_at, r.scan_count
     FROM jsonb_to_recordset($3::jsonb) AS r (scan_key text, epoch bigint, seq bigint, event_id text, ticket_id text, result text, scanned_at timestamptz, scan_count integer) ORDER BY r.scan_key`,
    [device, `${site}/${CLOUD_GATE}`, JSON.stringify(rows)],
  );
}

interface Lost {
  readonly epoch: number;
  readonly seq: number;
  readonly cause: string;
  readonly winner_gate: string | null;
  readonly winner_epoch: number | null;
  readonly winner_seq: number | null;
  readonly winner_at: Date | null;
}

/** What became of each row once all of them were there: recorded, or beyond its ticket's right. */
async function judged(client: DatabaseClient, site: string, recorded: readonly Recorded[], places: readonly Place[], results: Result[]): Promise<void> {
  const ledger = `${site}/${CLOUD_GATE}`;
  const { rows } = await client.query<Lost>(
    `SELECT loser_epoch AS epoch, loser_seq AS seq, cause, winner_gate, winner_epoch, winner_seq, winner_at FROM conflicts
     WHERE tenant_id = current_tenant_id() AND event_id = ANY ($1) AND ticket_id = ANY ($2) AND loser_gate = $3`,
    [[...new Set(recorded.map(({ ticket }) => ticket.event_id))], [...new Set(recorded.map(({ ticket }) => ticket.ticket_id))], ledger],
  );
  const lost = new Map(rows.map((row) => [`${row.epoch} ${row.seq}`, row]));
  const devices = await devicesOf(client, ledger, rows);
  for (const [n, { index, scan, ticket }] of recorded.entries()) {
    const more = scan.result === 'ALLOW' && (scan.units ?? 1) > ticket.units ? `: ${scan.units} guests on a ticket for ${ticket.units}` : '';
    const conflict = lost.get(`${places[n]?.[0]} ${places[n]?.[1]}`);
    results[index] =
      conflict === undefined
        ? { ticket_id: scan.ticket_id, status: 'SUCCESS', message: `recorded${more}` }
        : {
            ticket_id: scan.ticket_id,
            status: 'CONFLICT',
            message: conflictText(conflict.cause, devices.get(`${conflict.winner_epoch} ${conflict.winner_seq}`) ?? conflict.winner_gate, conflict.winner_at),
          };
  }
}

/** Which scanners the winning rows of this ledger came from, by epoch and seq. */
async function devicesOf(client: DatabaseClient, ledger: string, rows: readonly Lost[]): Promise<Map<string, string>> {
  const winners = rows.filter(({ winner_gate }) => winner_gate === ledger);
  if (winners.length === 0) return new Map();
  const { rows: found } = await client.query<{ epoch: number; seq: number; device: string }>(
    `SELECT s.epoch, s.seq, s.device FROM (SELECT DISTINCT * FROM unnest($2::bigint[], $3::bigint[]) AS k (epoch, seq)) AS k
     JOIN device_scans s ON s.tenant_id = current_tenant_id() AND s.gate = $1 AND s.epoch = k.epoch AND s.seq = k.seq`,
    [ledger, winners.map(({ winner_epoch }) => winner_epoch), winners.map(({ winner_seq }) => winner_seq)],
  );
  return new Map(found.map(({ epoch, seq, device }) => [`${epoch} ${seq}`, device]));
}

const conflictText = (cause: string, winner: string | null, at: Date | null): string =>
  winner === null || at === null
    ? `recorded, beyond the ticket's right (${cause})`
    : `recorded, beyond the ticket's right (${cause}): the first entry was at ${at.toISOString()}, ${winner}`;
