/**
 * Decides an online scan: one transaction reads the facts, applies the rules, appends the row and judges it with all others. A repeated scan_id
 * gets the same answer and writes nothing.
 */
import { createHash } from 'node:crypto';
import type { z } from 'zod';
import { canonicalJson } from '../../contract/hash-chain.ts';
import type { ScanResponse } from '../../contract/http.ts';
import { type Direction, splitGateName } from '../../contract/ids.ts';
import { MAX_TEXT_CHARS } from '../../contract/limits.ts';
import { cutText } from '../../contract/text.ts';
import type { Recognised, Verdict } from '../../rules/facts.ts';
import type { DatabaseClient } from '../db/database.ts';
import { appendCloudRows, type NewCloudEntry } from '../reconcile/cloud-ledger.ts';
import { judge, refOf, type ScanEvent, type ScanSources, type Seen, scanFacts } from './facts.ts';
import { settlePending } from './pending-scans.ts';

export interface OnlineScan {
  /** The caller's own name. */
  readonly device: string;
  readonly scanId: string;
  readonly seen: Seen;
  readonly direction: Direction;
  /** Number of a party's guests who are present; absent: all who may. */
  readonly units?: number | undefined;
  /** Other events of the scanner would have admitted the code as well; `ambiguous`: several would, and a policy refuses to choose. */
  readonly several?: 'chosen' | 'ambiguous' | null;
}

export type ScanAnswer = z.infer<typeof ScanResponse>;
export type ScanResult =
  | { readonly ok: true; readonly answer: ScanAnswer; readonly replayed: boolean }
  | { readonly ok: false; readonly code: 'SCAN_ID_REUSED' };

/** The clock: Unix ms, and ms since the request arrived. */
export interface ScanClock {
  readonly nowMs: () => number;
  readonly elapsedMs: () => number;
}

/** Attempts at a decision: it is made again where a gate's entry was committed between it and its row. After the last it stands, and is a conflict. */
const MAX_DECISIONS = 3;

/**
 * Decides and records, in the caller's transaction. Scans of one ticket wait for each other from the facts on; scans of one scanner while they
 * append, for rows of one ledger have an order. Throws CodeNeededError (a ref where the codes are signed).
 */
export async function scanOnline(client: DatabaseClient, sources: ScanSources, event: ScanEvent, scan: OnlineScan, clock: ScanClock): Promise<ScanResult> {
  const { site } = splitGateName(scan.device);
  const key = `id ${scan.scanId}`;
  const asked = askedOf(event, scan);
  await client.query("SELECT pg_advisory_xact_lock(hashtextextended(format('%s/%s/%s', current_tenant_id(), $1::text, $2::text), 6))", [
    event.eventId,
    textOf(event, scan.seen),
  ]);
  for (let decision = 1; ; decision++) {
    const before = await answeredBefore(client, scan.device, key, asked);
    if (before !== null) return before;
    const nowMs = clock.nowMs();
    let gathered = await scanFacts(client, sources, event, { ...scan, nowMs });
    // Admissions by scanners before the ticket was known, still pending.
    if (gathered.facts.kind === 'ticket' && (await settlePending(client, scan.device, [gathered.facts.ticket.ticketId])) > 0)
      gathered = await scanFacts(client, sources, event, { ...scan, nowMs });
    const verdict = judge(gathered);
    const answer = answerOf(verdict, gathered.facts);
    await client.query('SAVEPOINT scan');
    const { ledger, epoch, rows } = await appendCloudRows(client, site, rowsOf(verdict, gathered.facts, event, scan, clock), {
      atMs: nowMs,
      device: scan.device,
    });
    const place = [ledger, epoch, rows[0]?.seq] as const;
    const kept = await client.query(
      `INSERT INTO device_scans (tenant_id, device, scan_key, online, gate, epoch, seq, event_id, ticket_id, result, scanned_at, asked_sha256, answer)
       VALUES (current_tenant_id(), $1, $2, true, $3, $4, $5, $6, $7, $8, to_timestamp($9::double precision / 1000), $10, $11) ON CONFLICT DO NOTHING`,
      [scan.device, key, ...place, event.eventId, answer.ticket_id ?? null, answer.result, nowMs, asked, JSON.stringify(answer)],
    );
    // The same id came with another code at the same moment, or a gate's row was committed after the facts were read.
    const anew = kept.rowCount === 0 || (verdict.kind === 'grant' && decision < MAX_DECISIONS && (await isExcess(client, place)));
    if (!anew) return { ok: true, answer, replayed: false };
    await client.query('ROLLBACK TO SAVEPOINT scan');
  }
}

async function answeredBefore(client: DatabaseClient, device: string, key: string, asked: Buffer): Promise<ScanResult | null> {
  const { rows } = await client.query<{ asked_sha256: Buffer | null; answer: string | null }>(
    'SELECT asked_sha256, answer FROM device_scans WHERE tenant_id = current_tenant_id() AND device = $1 AND scan_key = $2',
    [device, key],
  );
  const [before] = rows;
  if (before === undefined) return null;
  if (before.answer === null || before.asked_sha256?.equals(asked) !== true) return { ok: false, code: 'SCAN_ID_REUSED' };
  return { ok: true, answer: JSON.parse(before.answer) as ScanAnswer, replayed: true };
}

async function isExcess(client: DatabaseClient, place: readonly [string, number, number | undefined]): Promise<boolean> {
  const { rows } = await client.query<{ verdict: string | null }>(
    'SELECT verdict FROM admissions WHERE tenant_id = current_tenant_id() AND gate = $1 AND epoch = $2 AND seq = $3',
    [...place],
  );
  return rows[0]?.verdict === 'excess';
}

/** Returns the reference of the code: never the code itself. */
const textOf = (event: ScanEvent, seen: Seen): string => ('code' in seen ? refOf(event.salt, seen.code) : seen.ticketRef);

/** Returns a fingerprint of the request, so that another request under the same scan_id is recognised; the code enters by its salted hash alone. */
function askedOf(event: ScanEvent, { seen, direction, units }: OnlineScan): Buffer {
  const what = 'code' in seen ? `code ${refOf(event.salt, seen.code)}` : `ref ${seen.ticketRef}`;
  return createHash('sha256')
    .update(canonicalJson([event.eventId, direction, what, ...(units === undefined ? [] : [units])]))
    .digest();
}

function answerOf(verdict: Verdict, facts: Recognised): ScanAnswer {
  const ticket = facts.kind === 'ticket' ? { ticket_id: facts.ticket.ticketId, ticket_ref: facts.ticket.ticketRef } : {};
  if (verdict.kind === 'refusal')
    return {
      success: true,
      result: 'DENY',
      reason: verdict.reason,
      explanation: verdict.explanation,
      ...ticket,
      ...(verdict.validAgainAtMs === null ? {} : { valid_again_at: new Date(verdict.validAgainAtMs).toISOString() }),
    };
  return {
    success: true,
    result: 'ALLOW',
    type: verdict.type,
    units: verdict.units,
    ...ticket,
    ...(verdict.lastEntryMs === null ? {} : { last_entry_at: new Date(verdict.lastEntryMs).toISOString() }),
    ...(verdict.vip ? { vip: true } : {}),
    ...(verdict.flags.length === 0 ? {} : { flags: [...verdict.flags] }),
  };
}

/** Returns the row of the decision as a gate would write it, with the scanner; a grant's passage with it, for a scanner has no sensor. */
function rowsOf(verdict: Verdict, facts: Recognised, event: ScanEvent, scan: OnlineScan, clock: ScanClock): Parameters<typeof appendCloudRows>[2] {
  const who = { device: scan.device, scan_id: scan.scanId };
  const ticket =
    facts.kind === 'ticket'
      ? { event_id: facts.ticket.eventId, ticket_id: facts.ticket.ticketId, ticket_ref: facts.ticket.ticketRef }
      : { event_id: event.eventId };
  if (verdict.kind === 'refusal') return [{ ...refusalRow(verdict, scan.direction), ...ticket, ...who }];
  if (facts.kind !== 'ticket') throw new Error('a grant needs a ticket');
  const grant = grantRow({
    type: verdict.type,
    direction: verdict.direction,
    units: verdict.units,
    medium: facts.medium,
    manifestVersion: facts.event.manifestVersion,
    online: true,
    latencyUs: Math.max(0, Math.round(clock.elapsedMs() * 1000)),
    flags: verdict.flags,
  });
  return [{ ...grant, ...ticket, ...who }, passedRow({ ...ticket, direction: verdict.direction }, verdict.units)];
}

const MAX_FACT_CHARS = 128;

function refusalRow(verdict: Extract<Verdict, { kind: 'refusal' }>, direction: Direction): NewCloudEntry {
  const facts = Object.entries(verdict.facts).map(([key, value]) => [key, typeof value === 'string' ? cutText(value, MAX_FACT_CHARS) : value]);
  return {
    kind: 'refusal',
    reason: verdict.reason,
    explanation: cutText(verdict.explanation, MAX_TEXT_CHARS),
    direction,
    ...(facts.length === 0 ? {} : { facts: Object.fromEntries(facts) }),
    ...(verdict.validAgainAtMs === null ? {} : { valid_again_at: new Date(verdict.validAgainAtMs).toISOString() }),
  };
}

export interface GrantFields {
  readonly type: 'first_entry' | 'reentry' | 'exit';
  readonly direction: Direction;
  readonly units: number;
  readonly medium: 'opaque' | 'signed' | 'rotating' | 'manual';
  readonly manifestVersion: number;
  readonly online: boolean;
  readonly latencyUs: number;
  readonly flags?: readonly string[];
}

/** Returns a grant in the cloud's ledger. `seen` is empty: the cloud decides by everything that it has stored. */
export function grantRow(grant: GrantFields): NewCloudEntry {
  return {
    kind: 'grant',
    direction: grant.direction,
    type: grant.type,
    units: grant.units,
    medium: grant.medium,
    manifest_version: grant.manifestVersion,
    online: grant.online,
    latency_us: grant.latencyUs,
    seen: {},
    ...(grant.flags === undefined || grant.flags.length === 0 ? {} : { flags: [...grant.flags] }),
  };
}

/** Returns the passage of the grant just before it (LANE.md, "sensor none": the release counts as the passage). Without a unit it is on every unit. */
export function passedRow(ticket: Readonly<Record<string, unknown>>, units: number, at: NewCloudEntry['at'] = {}) {
  return ([epoch, seq]: readonly [epoch: number, seq: number]): NewCloudEntry => ({
    kind: 'passage',
    of: [epoch, seq - 1],
    ...ticket,
    ...(units === 1 ? { unit: 1 } : {}),
    outcome: 'passed',
    at,
  });
}
