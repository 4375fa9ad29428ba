/** Stores scans over HTTP of which no decision is counted: known by their keys, claims on tickets that are not known, or in quarantine. */
import type { z } from 'zod';
import type { PendingScanView } from '../../contract/http.ts';
import { splitGateName } from '../../contract/ids.ts';
import { MAX_TEXT_CHARS } from '../../contract/limits.ts';
import { cutText } from '../../contract/text.ts';
import type { DatabaseClient } from '../db/database.ts';
import { appendCloudRows, type NewCloudEntry } from '../reconcile/cloud-ledger.ts';
import type { Item } from './offline-request.ts';

/** Claims in one list, the newest; `more` is set beyond it. */
const MAX_PENDING_LISTED = 1_000;

export interface KnownScan {
  readonly ticketId: string | null;
  readonly result: string;
}
/** [epoch, seq] of a claim, in the scanner's own ledger. */
export type Claim = readonly [epoch: number, seq: number];

export interface Known {
  readonly known: Map<string, KnownScan>;
  /** Claims without an event that now arrive with it, by key: they wait no more, and the scan settles them. */
  readonly claims: Map<string, Claim>;
}

/** Returns those of these scans that were stored before, by key. */
export async function knownScans(client: DatabaseClient, device: string, ledger: string, items: readonly Item[]): Promise<Known> {
  const claims = new Map<string, Claim>();
  if (items.length === 0) return { known: new Map(), claims };
  const named = items.filter(({ scan }) => scan.event_id !== undefined);
  if (named.length > 0) {
    const { rows } = await client.query<{ scan_key: string; gate: string; epoch: number; seq: number }>(
      `DELETE FROM pending_scans p USING unnest($2::text[], $3::text[]) AS n (scan_key, ticket_id)
       WHERE p.tenant_id = current_tenant_id() AND p.device = $1 AND p.scan_key = n.scan_key AND p.ticket_id = n.ticket_id AND p.event_id IS NULL RETURNING p.scan_key, p.gate, p.epoch, p.seq`,
      [device, named.map(({ key }) => key), named.map(({ scan }) => scan.ticket_id)],
    );
    for (const { scan_key, gate, epoch, seq } of rows) if (gate === ledger) claims.set(scan_key, [epoch, seq]);
  }
  const { rows } = await client.query<{ scan_key: string; ticket_id: string | null; result: string }>(
    `SELECT scan_key, ticket_id, result FROM device_scans WHERE tenant_id = current_tenant_id() AND device = $1 AND scan_key = ANY ($2)
     UNION ALL SELECT scan_key, ticket_id, result FROM pending_scans WHERE tenant_id = current_tenant_id() AND device = $1 AND scan_key = ANY ($2)`,
    [device, items.map(({ key }) => key)],
  );
  return { known: new Map(rows.map(({ scan_key, ticket_id, result }) => [scan_key, { ticketId: ticket_id, result }])), claims };
}

/** Returns how many more claims of a scanner may wait. Under its ledger's lock. */
export async function roomForClaims(client: DatabaseClient, device: string): Promise<number> {
  const { rows } = await client.query<{ room: number }>(
    `SELECT pending_scans_at_most() - count(*)::integer AS room FROM (SELECT 1 FROM pending_scans WHERE tenant_id = current_tenant_id() AND device = $1 LIMIT pending_scans_at_most()) AS few`,
    [device],
  );
  return Math.max(0, rows[0]?.room ?? 0);
}

/** Appends a claim for each of these scans to the scanner's ledger, and lets it wait for its ticket. */
export async function keepClaims(client: DatabaseClient, device: string, items: readonly Item[]): Promise<void> {
  if (items.length === 0) return;
  const { site } = splitGateName(device);
  const appended = await appendCloudRows(
    client,
    site,
    items.map((item) => claimRow(item, device)),
    { device },
  );
  const rows = items.map(({ key, scan, scannedAt, atMs, clock, flags }, n) => ({
    scan_key: key,
    seq: appended.rows[n]?.seq,
    result: scan.result,
    reason: scan.reason ?? null,
    event_id: scan.event_id ?? null,
    ticket_id: scan.ticket_id,
    direction: scan.direction,
    units: scan.units ?? null,
    scan_id: scan.scan_id ?? null,
    scan_count: scan.scan_count ?? null,
    flags,
    scanned_at: scannedAt.toISOString(),
    at: new Date(atMs).toISOString(),
    clock: clock.bootId,
    bound_ms: clock.boundMs,
    offset_ms: clock.offsetMs ?? 0,
  }));
  await client.query(
    `INSERT INTO pending_scans (tenant_id, device, gate, epoch, seq, scan_key, result, reason, event_id, ticket_id, direction, units, scan_id, scan_count, flags, scanned_at, at, clock, bound_ms, offset_ms)
     SELECT current_tenant_id(), $1, $3, $4, r.seq, r.scan_key, r.result, r.reason, r.event_id, r.ticket_id, r.direction, r.units, r.scan_id, r.scan_count, r.flags, r.scanned_at, r.at, r.clock, r.bound_ms, r.offset_ms
     FROM jsonb_to_recordset($2::jsonb) AS r (seq bigint, scan_key text, result text, reason text, event_id text, ticket_id text, direction text, units integer, scan_id text, scan_count bigint, flags text[], scanned_at timestamptz, at timestamptz, clock text, bound_ms integer, offset_ms bigint)`,
    [device, JSON.stringify(rows), appended.ledger, appended.epoch],
  );
}

function claimRow({ scan, atMs, clock, flags }: Item, device: string): NewCloudEntry {
  return {
    kind: 'claim',
    device,
    result: scan.result,
    ticket_id: scan.ticket_id,
    direction: scan.direction,
    ...(scan.event_id === undefined ? {} : { event_id: scan.event_id }),
    ...(scan.units === undefined ? {} : { units: scan.units }),
    ...(scan.reason === undefined ? {} : { reason: scan.reason }),
    ...(scan.scan_id === undefined ? {} : { scan_id: scan.scan_id }),
    ...(flags.length === 0 ? {} : { flags: [...flags] }),
    at: { atMs, ...clock },
  };
}

/**
 * Settles claims on these tickets that could not be settled when the tickets appeared; returns how many. Locks the ledgers of these claims and of the
 * scanner that asks, where there is any claim.
 */
export async function settlePending(client: DatabaseClient, device: string, ticketIds: readonly string[]): Promise<number> {
  const { rows } = await client.query<{ n: number }>('SELECT settle_before_scan($1, $2, $3) AS n', [splitGateName(device).site, device, ticketIds]);
  return rows[0]?.n ?? 0;
}

export type PendingScan = z.infer<typeof PendingScanView>;

/** Returns the claims that wait for their tickets, newest first, of one event or of all; `more`: there are older ones. */
export async function pendingScans(
  client: DatabaseClient,
  eventId: string | null,
  limit = MAX_PENDING_LISTED,
): Promise<{ pending: PendingScan[]; more: boolean }> {
  const most = Math.min(Math.max(1, limit), MAX_PENDING_LISTED);
  const { rows } = await client.query<PendingRow>(
    `SELECT p.device, p.gate, p.epoch, p.seq, p.at, p.received_at, p.result, p.reason, p.event_id, p.ticket_id, encode(p.ticket_ref, 'hex') AS ticket_ref, p.direction, p.units, p.failed
     FROM pending_scans p WHERE p.tenant_id = current_tenant_id() AND ($1::text IS NULL OR p.event_id = $1) ORDER BY p.received_at DESC, p.gate COLLATE "C", p.epoch, p.seq DESC LIMIT $2`,
    [eventId, most + 1],
  );
  return {
    pending: rows.slice(0, most).map(({ device, at, received_at, ...row }) => ({
      ...row,
      ...(device === '' ? {} : { device }),
      at: at.toISOString(),
      received_at: received_at.toISOString(),
    })),
    more: rows.length > most,
  };
}

interface PendingRow {
  /** Empty: none. */
  readonly device: string;
  readonly gate: string;
  readonly epoch: number;
  readonly seq: number;
  readonly at: Date;
  readonly received_at: Date;
  readonly result: 'ALLOW' | 'DENY';
  readonly reason: string | null;
  readonly event_id: string | null;
  readonly ticket_id: string | null;
  readonly ticket_ref: string | null;
  readonly direction: 'in' | 'out';
  readonly units: number | null;
  readonly failed: string | null;
}

export interface RefusedScan {
  readonly reason: 'unreadable' | 'failed';
  readonly why: string;
  readonly given: unknown;
}

/** Quarantines scans that could not be recorded; returns for each whether there was room. */
export async function quarantineScans(client: DatabaseClient, device: string, refused: readonly RefusedScan[]): Promise<readonly boolean[]> {
  if (refused.length === 0) return [];
  const { rows } = await client.query<{ kept: boolean[] }>('SELECT quarantine_scans($1, $2, $3, $4) AS kept', [
    device,
    refused.map(({ reason }) => reason),
    refused.map(({ why }) => cutText(why, MAX_TEXT_CHARS)),
    refused.map(({ given }) => JSON.stringify(given) ?? 'nothing'),
  ]);
  return rows[0]?.kept ?? [];
}
