/** Stores scans over HTTP that are no rows yet: known by their keys, pending for their tickets, or in quarantine. */
import { MAX_TEXT_CHARS } from '../../contract/limits.ts';
import { cutText } from '../../contract/text.ts';
import type { DatabaseClient } from '../db/database.ts';
import type { Item } from './offline-request.ts';

export interface KnownScan {
  readonly ticketId: string | null;
  readonly result: string;
}

/** Returns those of these scans that were stored before, by key. A pending one without its event that now arrives with it is replaced. */
export async function knownScans(client: DatabaseClient, device: string, items: readonly Item[]): Promise<Map<string, KnownScan>> {
  if (items.length === 0) return new Map();
  const named = items.filter(({ scan }) => scan.event_id !== undefined);
  if (named.length > 0)
    await client.query(
      `DELETE FROM pending_scans p USING unnest($2::text[], $3::text[]) AS n (scan_key, ticket_id)
       WHERE p.tenant_id = current_tenant_id() AND p.device = $1 AND p.scan_key = n.scan_key AND p.ticket_id = n.ticket_id AND p.event_id IS NULL`,
      [device, named.map(({ key }) => key), named.map(({ scan }) => scan.ticket_id)],
    );
  const { rows } = await client.query<{ scan_key: string; ticket_id: string | null; result: string }>(
    `SELECT scan_key, ticket_id, result FROM device_scans WHERE tenant_id = current_tenant_id() AND device = $1 AND scan_key = ANY ($2)
     UNION ALL SELECT scan_key, ticket_id, 'ALLOW' FROM pending_scans WHERE tenant_id = current_tenant_id() AND device = $1 AND scan_key = ANY ($2)`,
    [device, items.map(({ key }) => key)],
  );
  return new Map(rows.map(({ scan_key, ticket_id, result }) => [scan_key, { ticketId: ticket_id, result }]));
}

/** Stores scans until their tickets appear, up to the bound of one device; returns the keys of the stored ones. Under the ledger's lock. */
export async function keepPending(client: DatabaseClient, device: string, items: readonly Item[]): Promise<ReadonlySet<string>> {
  if (items.length === 0) return new Set();
  const { rows: room } = await client.query<{ room: number }>(
    `SELECT pending_scans_at_most() - count(*)::integer AS room FROM (SELECT 1 FROM pending_scans WHERE tenant_id = current_tenant_id() AND device = $1 LIMIT pending_scans_at_most()) AS few`,
    [device],
  );
  const kept = items.slice(0, Math.max(0, room[0]?.room ?? 0));
  const rows = kept.map(({ key, scan, scannedAt, atMs, clock, flags }) => ({
    scan_key: key,
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
  }));
  await client.query(
    `INSERT INTO pending_scans (tenant_id, device, scan_key, event_id, ticket_id, direction, units, scan_id, scan_count, flags, scanned_at, at, clock, bound_ms)
     SELECT current_tenant_id(), $1, r.scan_key, r.event_id, r.ticket_id, r.direction, r.units, r.scan_id, r.scan_count, r.flags, r.scanned_at, r.at, r.clock, r.bound_ms
     FROM jsonb_to_recordset($2::jsonb) AS r (scan_key text, event_id text, ticket_id text, direction text, units integer, scan_id text, scan_count bigint, flags text[], scanned_at timestamptz, at timestamptz, clock text, bound_ms integer)`,
    [device, JSON.stringify(rows)],
  );
  return new Set(kept.map(({ key }) => key));
}

/**
 * Settles pending scans of these tickets that could not be settled when the tickets appeared; returns how many. Locks the sites' cloud ledgers
 * where there is any.
 */
export async function settlePending(client: DatabaseClient, ticketIds: readonly string[]): Promise<number> {
  const { rows } = await client.query<{ n: number }>('SELECT settle_pending_scans($1) AS n', [ticketIds]);
  return rows[0]?.n ?? 0;
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
