/**
 * Records the decisions of disconnected scanners (`POST /offline/reconcile`): rows of the scanner's own ledger, appended and judged in pieces, a
 * transaction each. Nothing is decided again: an ALLOW is an entry that happened. The first scan by its time wins, whatever arrives first. Scans of
 * unknown tickets are claims that wait (pending-scans.ts); entries that are no scan go to quarantine.
 */
import type { z } from 'zod';
import type { OfflineScan, ReconcileResponse, ReconcileResult } from '../../contract/http.ts';
import { splitGateName } from '../../contract/ids.ts';
import { MAX_TEXT_CHARS } from '../../contract/limits.ts';
import { explain, Reason } from '../../contract/reasons.ts';
import { cutText } from '../../contract/text.ts';
import { effectivePolicy, readPolicies } from '../../rules/policy.ts';
import { endOf } from '../../rules/validity.ts';
import { type Database, type DatabaseClient, isTransient } from '../db/database.ts';
import { appendCloudRows, lockCloudLedger } from '../reconcile/cloud-ledger.ts';
import { type Item, readScan, type ScannerClock, scannerClock } from './offline-request.ts';
import { grantRow, passedRow } from './online.ts';
import { keepClaims, knownScans, quarantineScans, type RefusedScan, roomForClaims, settlePending } from './pending-scans.ts';

/** Scans in one transaction, appended and judged in one statement, two rows each: the reconciler's plans are made for a thousand rows. */
export const SCANS_AT_ONCE = 500;
/** Time before an event's start, in seconds, from which a scan is within its hours where no policy says when admission opens. */
const OPENS_BEFORE_START_S = 24 * 3_600;

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
  readonly tier: string;
  readonly starts_at: Date | null;
  readonly ends_at: Date | null;
  readonly policies: unknown;
}
/** A scan with its ticket; null: a refusal of an unknown ticket. */
interface Recorded extends Item {
  readonly ticket: Ticket | null;
}
interface Taking {
  readonly client: DatabaseClient;
  readonly device: string;
  readonly site: string;
  readonly ledger: string;
  /** The number of the first scan in its upload. */
  readonly from: number;
  readonly given: readonly unknown[];
  readonly results: Result[];
  readonly recorded: Recorded[];
  readonly places: Place[];
  readonly refused: (RefusedScan & { readonly index: number })[];
}

/**
 * Answers every scan of an upload, in the given order. Works it in pieces, a transaction each: other scans pass between two pieces, and an interrupted
 * upload is sent again whole, where a repeat changes nothing.
 */
export async function reconcileUpload(
  database: Database,
  tenantId: string,
  device: string,
  scans: readonly unknown[],
  { nowMs, deviceTime }: { readonly nowMs: number; readonly deviceTime?: unknown },
): Promise<OfflineAnswer> {
  const clock = scannerClock(device, deviceTime, nowMs);
  const results: Result[] = [];
  for (let from = 0; from < scans.length; from += SCANS_AT_ONCE) {
    const piece = scans.slice(from, from + SCANS_AT_ONCE);
    results.push(...(await database.withTenant(tenantId, (client) => reconcilePiece(client, device, piece, from, clock, nowMs))));
  }
  return answerOf(results);
}

function answerOf(results: Result[]): OfflineAnswer {
  const failed = results.filter(({ status }) => status === 'ERROR').length;
  return { success: true, reconciled: results.length - failed, failed, results };
}

/** Answers the scans of one piece; a failed one undoes no other. `from`: the number of its first scan in the upload. */
async function reconcilePiece(
  client: DatabaseClient,
  device: string,
  scans: readonly unknown[],
  from: number,
  clock: ScannerClock,
  nowMs: number,
): Promise<Result[]> {
  const { site } = splitGateName(device);
  const items: Item[] = [];
  const unreadable: (readonly [index: number, why: string])[] = [];
  for (const [index, given] of scans.entries()) {
    const read = readScan(given, from + index, clock, nowMs);
    if (typeof read === 'string') unreadable.push([index, read]);
    else items.push({ ...read, index });
  }
  await settlePending(client, device, [...new Set(items.map(({ scan }) => scan.ticket_id))]);
  const ledger = await lockCloudLedger(client, site, device);
  const taking: Taking = { client, device, site, ledger, from, given: scans, results: [], recorded: [], places: [], refused: [] };
  for (const [index, why] of unreadable) refuse(taking, index, 'unreadable', why);
  await take(taking, await withoutKnown(taking, items));
  await judged(taking);
  await quarantined(taking);
  return taking.results;
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
  const { known, claims } = await knownScans(taking.client, taking.device, taking.ledger, items);
  const fresh: Item[] = [];
  for (const item of items) {
    const { index, scan, key } = item;
    const before = known.get(key);
    known.set(key, before ?? { ticketId: scan.ticket_id, result: scan.result });
    if (before === undefined) fresh.push({ ...item, ...(claims.has(key) ? { claim: claims.get(key) as readonly [number, number] } : {}) });
    else if (before.ticketId === scan.ticket_id && before.result === scan.result) taking.results[index] = answer(item, 'DUPLICATE', 'known already');
    else refuse(taking, index, 'unreadable', `scans.${taking.from + index}.scan_id: ${scan.scan_id} was used for another scan`);
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
      return refuse(taking, first.index, 'failed', `scans.${taking.from + first.index}: cannot be recorded: ${(error as Error).message}`);
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

async function takeTogether({ client, device, site, ledger }: Taking, items: readonly Item[]): Promise<Taken> {
  const tickets = await findTickets(client, device, site, items);
  const recorded: Recorded[] = [];
  const waiting: { readonly item: Item; readonly why: string }[] = [];
  for (const item of items) {
    const ticket = ticketOf(tickets, item.scan);
    if (typeof ticket !== 'string') recorded.push({ ...item, ticket });
    else waiting.push({ item, why: ticket });
  }
  const room = waiting.length === 0 ? 0 : await roomForClaims(client, device);
  const kept = waiting.slice(0, room);
  // Where no more may wait, a refusal is recorded as it is: it changes nothing for the ticket.
  for (const { item } of waiting.slice(room)) if (item.scan.result === 'DENY') recorded.push({ ...item, ticket: null });
  recorded.sort((a, b) => a.atMs - b.atMs || a.index - b.index);
  const places = await append(client, device, site, recorded);
  await keep(client, device, ledger, recorded, places);
  await keepClaims(
    client,
    device,
    kept.map(({ item }) => item),
  );
  const results = kept.map(({ item, why }) => [item.index, answer(item, 'PENDING', `${why}: kept, and settled when the ticket appears`)] as const);
  const beyond = waiting
    .slice(room)
    .filter(({ item }) => item.scan.result === 'ALLOW')
    .map(({ item, why }) => [item.index, `${why}, and too many scans of this device wait for theirs: import the tickets, then send it again`] as const);
  return { recorded, places, results, beyond };
}

/** Returns tickets by their id, of events at the device's site: first of those that it is assigned. */
async function findTickets(client: DatabaseClient, device: string, site: string, items: readonly Item[]): Promise<Map<string, Ticket[]>> {
  const { rows } = await client.query<Ticket & { assigned: boolean }>(
    `SELECT e.event_id, t.ticket_id, encode(t.ticket_ref, 'hex') AS ticket_ref, t.units, t.tier, e.starts_at, e.ends_at, e.policies, e.version, CASE WHEN coalesce(u.entries, 0) = 0 THEN 0 WHEN t.units = 1 THEN 1 ELSE
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
    const { epoch, rows } = await appendCloudRows(client, site, entries, { device });
    for (const { seq, entry } of rows) if (entry['kind'] !== 'passage') places.push([epoch, seq]);
  }
  return places;
}

/** `entered`: units admitted earlier in this batch, by ticket; the type of a grant informs only, it decides nothing. */
function rowsOf({ scan, atMs, clock, flags, claim, ticket }: Recorded, device: string, entered: Map<string, number>): Parameters<typeof appendCloudRows>[2] {
  const at = { atMs, ...clock };
  const who = { device, ...(scan.scan_id === undefined ? {} : { scan_id: scan.scan_id }), ...(claim === undefined ? {} : { of: [...claim] }) };
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
    flags: isWithinHours(ticket, device, atMs) ? flags : [...flags, 'outside_hours'],
  });
  return [{ ...grant, ...about, ...who, at }, passedRow({ ...about, direction: scan.direction }, units, at)];
}

/** Returns whether an entry at this time lies within the event's hours, by the policies of its tier at this scanner. */
function isWithinHours({ tier, starts_at, ends_at, policies }: Ticket, device: string, atMs: number): boolean {
  const read = readPolicies(policies);
  if (!read.ok) return true;
  const { admission } = effectivePolicy(read.policies, tier, device);
  const startsAtMs = starts_at?.getTime() ?? null;
  const endMs = endOf({ startsAtMs, endsAtMs: ends_at?.getTime() ?? null });
  const opensMs =
    startsAtMs === null ? Number.NEGATIVE_INFINITY : startsAtMs - ((admission.opens_before_start_s ?? OPENS_BEFORE_START_S) + admission.grace_before_s) * 1000;
  const closesMs =
    endMs === null || admission.closes_after_end_s === null
      ? Number.POSITIVE_INFINITY
      : endMs + (admission.closes_after_end_s + admission.grace_after_s) * 1000;
  return atMs >= opensMs && atMs <= closesMs;
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

async function keep(client: DatabaseClient, device: string, ledger: string, recorded: readonly Recorded[], places: readonly Place[]): Promise<void> {
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
    [device, ledger, JSON.stringify(rows)],
  );
}

interface Lost {
  readonly epoch: number;
  readonly seq: number;
  readonly cause: string;
  readonly winner_gate: string | null;
  readonly winner_at: Date | null;
  readonly winner_device: string | null;
}

/** Returns the verdict of each row after all were stored: recorded, or beyond its ticket's right. */
async function judged({ client, ledger, recorded, places, results }: Taking): Promise<void> {
  const tickets = recorded.flatMap(({ ticket }) => ticket ?? []);
  const { rows } = await client.query<Lost>(
    `SELECT loser_epoch AS epoch, loser_seq AS seq, cause, winner_gate, winner_at, (SELECT a.scanner FROM admissions a WHERE a.tenant_id = c.tenant_id AND a.gate = c.winner_gate AND a.epoch = c.winner_epoch AND a.seq = c.winner_seq) AS winner_device FROM conflicts c
     WHERE tenant_id = current_tenant_id() AND event_id = ANY ($1) AND ticket_id = ANY ($2) AND loser_gate = $3`,
    [[...new Set(tickets.map(({ event_id }) => event_id))], [...new Set(tickets.map(({ ticket_id }) => ticket_id))], ledger],
  );
  const lost = new Map(rows.map((row) => [`${row.epoch} ${row.seq}`, row]));
  for (const [n, item] of recorded.entries()) {
    const { scan, ticket } = item;
    const more = scan.result === 'ALLOW' && ticket !== null && (scan.units ?? 1) > ticket.units ? `: ${scan.units} guests on a ticket for ${ticket.units}` : '';
    const conflict = lost.get(`${places[n]?.[0]} ${places[n]?.[1]}`);
    const winner = conflict === undefined ? null : (conflict.winner_device ?? conflict.winner_gate);
    results[item.index] =
      conflict === undefined ? answer(item, 'SUCCESS', `recorded${more}`) : answer(item, 'CONFLICT', conflictText(conflict.cause, winner, conflict.winner_at));
  }
}

const conflictText = (cause: string, winner: string | null, at: Date | null): string =>
  winner === null || at === null
    ? `recorded, beyond the ticket's right (${cause})`
    : `recorded, beyond the ticket's right (${cause}): the first entry was at ${at.toISOString()}, ${winner}`;
