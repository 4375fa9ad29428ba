/**
 * Calls the SQL entry points of scans that come to the cloud itself, with types. SQL decides; each is one call in the caller's transaction. Their
 * errors are read by `businessErrorOf` (NO_SUCH_TICKET, NO_SUCH_DEVICE …).
 */
import type { Reason } from '../../../contract/reasons.ts';
import type { DatabaseClient } from '../../db/database.ts';
import { ticketRef } from '../../tickets/codes/code-hash.ts';

export interface OnlineScan {
  readonly ticketId: string;
  /** Needed where several events use the same id. */
  readonly eventId?: string | undefined;
  /** `<site>/<gate>` of an enrolled device; absent: the event's site. */
  readonly device?: string | undefined;
  /** The scanner's user, as the scanner names it: a name or a UUID. Stays in the log; never in a ledger. */
  readonly scannedBy?: string | undefined;
}

export interface ScanResult {
  readonly allowed: boolean;
  /** Another scan of this ticket runs, or its rows are being reconciled: nothing was decided, scan again. */
  readonly busy: boolean;
  readonly reason: Reason | null;
  readonly message: string | null;
  readonly entryType: 'first_entry' | 'reentry' | null;
  /** The entry before this scan. */
  readonly lastEntryAt: Date | null;
  readonly scanCount: number;
  readonly eventId: string;
  /** [ledger, epoch, seq] of its row; null where busy. */
  readonly row: readonly [ledger: string, epoch: number, seq: number] | null;
}

/** Scans one ticket at the cloud's own entrance: admits or refuses at once and finally, or reports that it is busy. */
export async function scanTicketAtomic(client: DatabaseClient, scan: OnlineScan): Promise<ScanResult> {
  const { rows } = await client.query<{
    allowed: boolean;
    busy: boolean;
    reason: Reason | null;
    message: string | null;
    entry_type: ScanResult['entryType'];
    last_entry_at: Date | null;
    scan_count: number;
    event_id: string;
    gate: string | null;
    epoch: number;
    seq: number;
  }>('SELECT * FROM scan_ticket_atomic($1, $2, $3, $4)', [scan.ticketId, scan.scannedBy ?? null, scan.device ?? null, scan.eventId ?? null]);
  const [row] = rows;
  if (row === undefined) throw new Error('scan_ticket_atomic answered nothing');
  const { allowed, busy, reason, message } = row;
  return {
    allowed,
    busy,
    reason,
    message,
    entryType: row.entry_type,
    lastEntryAt: row.last_entry_at,
    scanCount: row.scan_count,
    eventId: row.event_id,
    row: row.gate === null ? null : [row.gate, row.epoch, row.seq],
  };
}

export interface OfflineScan {
  readonly ticketId: string;
  readonly eventId?: string | undefined;
  readonly device: string;
  readonly scannedAt: Date;
  readonly result: 'ALLOW' | 'DENY';
  readonly reason?: string | undefined;
  /** Identifies the scan; absent: device, ticket, time and result identify it. */
  readonly scanId?: string | undefined;
  readonly scannedBy?: string | undefined;
  /** Largest error of the device's clock, in ms. */
  readonly boundMs?: number | undefined;
}
export interface SyncedScan {
  readonly status: 'SUCCESS' | 'DUPLICATE' | 'CONFLICT' | 'PENDING' | 'ERROR';
  readonly message: string;
}

/** Records a scan that a device made while disconnected. Returns ERROR instead of failing, so that one scan undoes no other. */
export async function syncOfflineScan(client: DatabaseClient, scan: OfflineScan): Promise<SyncedScan> {
  const { rows } = await client.query<SyncedScan>('SELECT status, message FROM sync_offline_scan($1, $2, $3, $4, $5, $6, $7, $8, $9)', [
    scan.ticketId,
    scan.scannedAt,
    scan.device,
    scan.result,
    scan.reason ?? null,
    scan.scanId ?? null,
    scan.eventId ?? null,
    scan.boundMs ?? 5_000,
    scan.scannedBy ?? null,
  ]);
  return rows[0] as SyncedScan;
}

export interface VipScan {
  readonly eventId: string;
  /** The pass's code; hashed here and not stored. */
  readonly token: string;
  readonly device?: string | undefined;
  readonly scannedBy?: string | undefined;
}
export interface VipScanResult {
  readonly allowed: boolean;
  readonly scanType: 'first_entry' | 'reentry' | 'refused';
  readonly reason: Reason | null;
  readonly message: string | null;
  /** The entry before this scan: the scanner shows it at a re-entry. */
  readonly lastEntryAt: Date | null;
  readonly entries: number;
  readonly reservationId: string;
  readonly checkedInGuests: number;
  readonly guestCount: number;
}

/** Scans a VIP pass: first entry and re-entry. null: there is no such event. */
export async function scanVip(client: DatabaseClient, scan: VipScan): Promise<VipScanResult | null> {
  const event = (await client.query<{ salt: Buffer }>('SELECT salt FROM events WHERE tenant_id = current_tenant_id() AND event_id = $1', [scan.eventId]))
    .rows[0];
  if (event === undefined) return null;
  const { rows } = await client.query<{
    allowed: boolean;
    scan_type: VipScanResult['scanType'];
    reason: Reason | null;
    message: string | null;
    last_entry_at: Date | null;
    entries: number;
    reservation_id: string;
    checked_in_guests: number;
    guest_count: number;
  }>('SELECT * FROM process_vip_scan_with_reentry($1, $2, $3, $4)', [
    scan.eventId,
    ticketRef(event.salt, scan.token),
    scan.scannedBy ?? null,
    scan.device ?? null,
  ]);
  const [row] = rows;
  if (row === undefined) throw new Error('process_vip_scan_with_reentry answered nothing');
  const { allowed, reason, message, entries } = row;
  return {
    allowed,
    scanType: row.scan_type,
    reason,
    message,
    lastEntryAt: row.last_entry_at,
    entries,
    reservationId: row.reservation_id,
    checkedInGuests: row.checked_in_guests,
    guestCount: row.guest_count,
  };
}
