/**
 * Records the decisions of disconnected scanners (`POST /offline/reconcile`): rows of the site's cloud ledger, appended and judged in one
 * transaction. Nothing is decided again: an ALLOW is an entry that happened. The first scan by its time wins, whatever arrives first. Scans of
 * unknown tickets wait (pending-scans.ts); entries that are no scan go to quarantine.
 */
import type { z } from 'zod';
import type { OfflineScan, ReconcileResponse, ReconcileResult } from '../../contract/http.ts';
import { CLOUD_GATE, splitGateName } from '../../contract/ids.ts';
import { MAX_TEXT_CHARS } from '../../contract/limits.ts';
import { explain, Reason } from '../../contract/reasons.ts';
import { cutText } from '../../contract/text.ts';
import { type DatabaseClient, isTransient } from '../db/database.ts';
import { appendCloudRows, lockCloudLedger } from '../reconcile/cloud-ledger.ts';
import { type Item, readScan } from './offline-request.ts';
import { grantRow, passedRow } from './online.ts';
import { keepPending, knownScans, quarantineScans, type RefusedScan, settlePending } from './pending-scans.ts';

/** Scans appended and judged in one statement, two rows each: the reconciler's plans are made for a thousand rows. */
const SCANS_AT_ONCE = 500;

export type OfflineAnswer = z.infer<typeof ReconcileResponse>;
type Result = z.infer<typeof ReconcileResult>;
type Scan = OfflineScan;

interface Ticket {
  readonly event_id: string;
  readonly ticket_id: string;
  readonly ticket_ref: string;
  readonly units: number;
  /** Units that are inside already. */
  readonly entered: number;
  readonly version: number;
}
/** A scan with its ticket; null: a refusal of an unknown ticket. */
interface Recorded extends Item {
  readonly ticket: Ticket | null;
}
interface Taking {
  readonly client: DatabaseClient;
  readonly device: string;
  readonly site: string;
  readonly given: readonly unknown[];
  readonly results: Result[];
  readonly recorded: Recorded[];
  readonly places: Place[];
  readonly refused: (RefusedScan & { readonly index: number })[];
}

/** Answers every scan, in the given order; a failed one undoes no other. In the caller's transaction; a repeat changes nothing. */
export async function reconcileOffline(client: DatabaseClient, device: string, scans: readonly unknown[], nowMs: number): Promise<OfflineAnswer> {
  const { site } = splitGateName(device);
  const taking: Taking = { client, device, site, given: scans, results: [], recorded: [], places: [], refused: [] };
  const items: Item[] = [];
  for (const [index, given] of scans.entries()) {
    const read = readScan(given, index, device, nowMs);
    if (typeof read === 'string') refuse(taking, index, 'unreadable', read);
    else items.push(read);
  }
  await lockCloudLedger(client, site);
  await settlePending(client, [...new Set(items.map(({ scan }) => scan.ticket_id))]);
  await take(taking, await withoutKnown(taking, items));
  await judged(taking);
  await quarantined(taking);
  const failed = taking.results.filter(({ status }) => status === 'ERROR').length;
  return { success: true, reconciled: taking.results.length - failed, failed, results: taking.results };
}

function refuse({ given, refused }: Taking, index: number, reason: RefusedScan['reason'], why: string): void {
  refused.push({ index, reason, why, given: given[index] });
}

/** Stores entries that are no scan, or cannot be recorded, and reports them. */
async function quarantined({ client, device, refused, results }: Taking): Promise<void> {
  const kept = await quarantineScans(client, device, refused);
  for (const [n, { index, why, given }] of refused.entries()) {
    const where = kept[n] === true ? 'kept in quarantine' : 'not kept: too much of this device is in quarantine already';
    results[index] = { ticket_id: idOf(given), status: 'ERROR', message: `${cutText(why, MAX_TEXT_CHARS)} (${where})` };
  }
}

const idOf = (given: unknown): string | null => {
  const id = (given as { ticket_id?: unknown } | null)?.ticket_id;
  return typeof id === 'string' ? cutText(id, 64) : null;
};
const answer = ({ scan, remarks }: Item, status: Result['status'], message: string): Result => ({
  ticket_id: scan.ticket_id,
  status,
  message: cutText([message, ...remarks].join('; '), MAX_TEXT_CHARS),
});

/** Answers repeats of stored scans and of scans in this batch; returns the others. */
async function withoutKnown(taking: Taking, items: readonly Item[]): Promise<Item[]> {
  const known = await knownScans(taking.client, taking.device, items);
  const fresh: Item[] = [];
  for (const item of items) {
    const { index, scan, key } = item;
    const before = known.get(key);
    known.set(key, before ?? { ticketId: scan.ticket_id, result: scan.result });
    if (before === undefined) fresh.push(item);
    else if (before.ticketId === scan.ticket_id && before.result === scan.result) taking.results[index] = answer(item, 'DUPLICATE', 'known already');
    else refuse(taking, index, 'unreadable', `scans.${index}.scan_id: ${scan.scan_id} was used for another scan`);
  }
  return fresh;
}

/** Records all together; where PostgreSQL refuses, splits in halves until the refused scan is alone and goes to quarantine. */
async function take(taking: Taking, items: readonly Item[]): Promise<void> {
  if (items.length === 0) return;
  const { client } = taking;
  await client.query('SAVEPOINT scans');
  try {
    const done = await takeTogether(taking, items);
    await client.query('RELEASE SAVEPOINT scans');
    taking.recorded.push(...done.recorded);
    taking.places.push(...done.places);
    for (const [index, result] of done.results) taking.results[index] = result;
    for (const [index, why] of done.beyond) refuse(taking, index, 'failed', why);
  } catch (error) {
    if (isTransient(error)) throw error;
    await client.query('ROLLBACK TO SAVEPOINT scans');
    await client.query('RELEASE SAVEPOINT scans');
    const [first] = items;
    if (items.length === 1 && first !== undefined)
      return refuse(taking, first.index, 'failed', `scans.${first.index}: cannot be recorded: ${(error as Error).message}`);
    const middle = Math.ceil(items.length / 2);
    await take(taking, items.slice(0, middle));
    await take(taking, items.slice(middle));
  }
}

interface Taken {
  readonly recorded: readonly Recorded[];
  readonly places: readonly Place[];
  /** For pending scans. */
  readonly results: readonly (readonly [index: number, result: Result])[];
  /** The cause why no more may wait. */
  readonly beyond: readonly (readonly [index: number, why: string])[];
}

async function takeTogether({ client, device, site }: Taking, items: readonly Item[]): Promise<Taken> {
  const tickets = await findTickets(client, device, site, items);
  const recorded: Recorded[] = [];
  const waiting: { readonly item: Item; readonly why: string }[] = [];
  for (const item of items) {
    const ticket = ticketOf(tickets, item.scan);
    if (typeof ticket !== 'string') recorded.push({ ...item, ticket });
    else if (item.scan.result === 'DENY') recorded.push({ ...item, ticket: null });
    else waiting.push({ item, why: ticket });
  }
  recorded.sort((a, b) => a.atMs - b.atMs || a.index - b.index);
  const places = await append(client, device, site, recorded);
  await keep(client, device, site, recorded, places);
  const kept = await keepPending(
    client,
    device,
    waiting.map(({ item }) => item),
  );
  const results = waiting
    .filter(({ item }) => kept.has(item.key))
    .map(({ item, why }) => [item.index, answer(item, 'PENDING', `${why}: kept, and counted when the ticket appears`)] as const);
  const beyond = waiting
    .filter(({ item }) => !kept.has(item.key))
    .map(({ item, why }) => [item.index, `${why}, and too many scans of this device wait for theirs: import the tickets, then send it again`] as const);
  return { recorded, places, results, beyond };
}

/** Returns tickets by their id, of events at the device's site: first of those that it is assigned. */
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
  if (list[0] === undefined) return 'Ticket not known yet';
  return list.length === 1 ? list[0] : `a ticket of several events (${list.map(({ event_id }) => event_id).join(', ')}): say which with event_id`;
}

type Place = readonly [epoch: number, seq: number];

/** Returns the place of each scan's row. */
async function append(client: DatabaseClient, device: string, site: string, recorded: readonly Recorded[]): Promise<Place[]> {
  const places: Place[] = [];
  const entered = new Map<string, number>();
  for (let from = 0; from < recorded.length; from += SCANS_AT_ONCE) {
    const part = recorded.slice(from, from + SCANS_AT_ONCE);
    const entries = part.flatMap((item) => rowsOf(item, device, entered));
    const { epoch, rows } = await appendCloudRows(client, site, entries);
    for (const { seq, entry } of rows) if (entry['kind'] !== 'passage') places.push([epoch, seq]);
  }
  return places;
}

/** `entered`: units admitted earlier in this batch, by ticket; the type of a grant informs only, it decides nothing. */
function rowsOf({ scan, atMs, clock, flags, ticket }: Recorded, device: string, entered: Map<string, number>): Parameters<typeof appendCloudRows>[2] {
  const at = { atMs, ...clock };
  const who = { device, ...(scan.scan_id === undefined ? {} : { scan_id: scan.scan_id }) };
  if (ticket === null || scan.result === 'DENY') {
    const reason = ticket === null && scan.reason === undefined ? 'invalid' : reasonOf(scan.reason);
    const about =
      ticket === null
        ? { ticket_id: scan.ticket_id, ...(scan.event_id === undefined ? {} : { event_id: scan.event_id }) }
        : { event_id: ticket.event_id, ticket_id: ticket.ticket_id, ticket_ref: ticket.ticket_ref };
    return [{ kind: 'refusal', reason, explanation: scan.reason ?? explain(reason), direction: scan.direction, ...about, ...who, at }];
  }
  const about = { event_id: ticket.event_id, ticket_id: ticket.ticket_id, ticket_ref: ticket.ticket_ref };
  const units = scan.units ?? ticket.units;
  const key = `${ticket.event_id} ${ticket.ticket_id}`;
  const before = entered.get(key) ?? ticket.entered;
  // Later units of a party enter for the first time too.
  const again = before >= ticket.units;
  if (scan.direction === 'in') entered.set(key, before + units);
  const grant = grantRow({
    type: scan.direction === 'out' ? 'exit' : again ? 'reentry' : 'first_entry',
    direction: scan.direction,
    units,
    medium: 'opaque',
    // Versions follow the clock: judged by the policies in force at the time of the scan.
    manifestVersion: Math.max(0, Math.min(ticket.version, Math.floor(atMs / 1000))),
    online: false,
    latencyUs: 0,
    flags,
  });
  return [{ ...grant, ...about, ...who, at }, passedRow({ ...about, direction: scan.direction }, units, at)];
}

/** Maps other systems' reasons of a refusal; any other text was refused by a rule of the scanner's. */
const REASON_ALIASES: Readonly<Record<string, Reason>> = {
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
  const alias = (text ?? '')
    .trim()
    .toLowerCase()
    .replace(/[^a-z]+/g, '_')
    .replace(/^_|_$/g, '');
  const own = Reason.safeParse(alias);
  return own.success ? own.data : Object.hasOwn(REASON_ALIASES, alias) ? (REASON_ALIASES[alias] as Reason) : 'rules';
}

async function keep(client: DatabaseClient, device: string, site: string, recorded: readonly Recorded[], places: readonly Place[]): Promise<void> {
  if (recorded.length === 0) return;
  const rows = recorded.map(({ key, scan, ticket, scannedAt }, n) => ({
    scan_key: key,
    epoch: places[n]?.[0],
    seq: places[n]?.[1],
    event_id: ticket?.event_id ?? scan.event_id ?? null,
    ticket_id: scan.ticket_id,
    result: scan.result,
    scanned_at: scannedAt.toISOString(),
    scan_count: scan.scan_count ?? null,
  }));
  await client.query(
    `INSERT INTO device_scans (tenant_id, device, scan_key, online, gate, epoch, seq, event_id, ticket_id, result, scanned_at, scan_count)
     SELECT current_tenant_id(), $1, r.scan_key, false, $2, r.epoch, r.seq, r.event_id, r.ticket_id, r.result, r.scanned_at, r.scan_count
     FROM jsonb_to_recordset($3::jsonb) AS r (scan_key text, epoch bigint, seq bigint, event_id text, ticket_id text, result text, scanned_at timestamptz, scan_count bigint) ORDER BY r.scan_key`,
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

/** Returns the verdict of each row after all were stored: recorded, or beyond its ticket's right. */
async function judged({ client, site, recorded, places, results }: Taking): Promise<void> {
  const ledger = `${site}/${CLOUD_GATE}`;
  const tickets = recorded.flatMap(({ ticket }) => ticket ?? []);
  const { rows } = await client.query<Lost>(
    `SELECT loser_epoch AS epoch, loser_seq AS seq, cause, winner_gate, winner_epoch, winner_seq, winner_at FROM conflicts
     WHERE tenant_id = current_tenant_id() AND event_id = ANY ($1) AND ticket_id = ANY ($2) AND loser_gate = $3`,
    [[...new Set(tickets.map(({ event_id }) => event_id))], [...new Set(tickets.map(({ ticket_id }) => ticket_id))], ledger],
  );
  const lost = new Map(rows.map((row) => [`${row.epoch} ${row.seq}`, row]));
  const devices = await devicesOf(client, ledger, rows);
  for (const [n, item] of recorded.entries()) {
    const { scan, ticket } = item;
    const more = scan.result === 'ALLOW' && ticket !== null && (scan.units ?? 1) > ticket.units ? `: ${scan.units} guests on a ticket for ${ticket.units}` : '';
    const conflict = lost.get(`${places[n]?.[0]} ${places[n]?.[1]}`);
    const winner = conflict === undefined ? null : (devices.get(`${conflict.winner_epoch} ${conflict.winner_seq}`) ?? conflict.winner_gate);
    results[item.index] =
      conflict === undefined ? answer(item, 'SUCCESS', `recorded${more}`) : answer(item, 'CONFLICT', conflictText(conflict.cause, winner, conflict.winner_at));
  }
}

/** Returns the scanners of the winning rows of this ledger, by epoch and seq. */
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
