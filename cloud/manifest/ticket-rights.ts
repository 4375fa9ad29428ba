/** Converts rows of Postgres to the rights that gates hold. Pure. */
import { type ManifestTicket, STATE_RIGHTS, type TicketChange, type TicketRight, type TicketState, type Tombstone } from '../../contract/manifest.ts';

/** A row of `tickets`, as TICKET_COLUMNS reads it. */
export interface TicketRow {
  readonly ticket_id: string;
  readonly ticket_ref: Buffer;
  readonly tier: string;
  readonly zone: string | null;
  readonly status: TicketState;
  readonly blocked: boolean;
  readonly approved: boolean;
  readonly max_scans: number | null;
  readonly units: number;
  readonly valid_from: Date | null;
  readonly valid_until: Date | null;
  readonly vip: boolean;
  readonly note: string | null;
  readonly scan_count: number;
}
/** `vip`: not where the reservation of a linked ticket is over. */
export const TICKET_COLUMNS =
  'ticket_id, ticket_ref, tier, zone, status, blocked, approved, max_scans, units, valid_from, valid_until, vip AND NOT vip_ended AS vip, note, scan_count';

export interface TombstoneRow {
  readonly ticket_ref: Buffer;
  readonly ticket_id: string | null;
  readonly reason: Tombstone['reason'];
}

/**
 * Returns the right of the ticket; null: nobody holds it, so no gate knows it. Of several obstacles the hardest to remove comes first: ended for
 * good, then blocked, unpaid, unapproved.
 */
export function rightOf(row: Pick<TicketRow, 'status' | 'blocked' | 'approved'>): TicketRight | null {
  const right = STATE_RIGHTS[row.status];
  if (right === null || right === 'revoked' || right === 'canceled' || right === 'expired') return right;
  if (row.blocked) return 'blocked';
  if (right === 'valid' && !row.approved) return 'unapproved';
  return right;
}

/** Returns the ticket for a manifest; null: not in it. */
export function manifestTicket(row: TicketRow): ManifestTicket | null {
  const status = rightOf(row);
  if (status === null) return null;
  return {
    ticket_id: row.ticket_id,
    ticket_ref: row.ticket_ref.toString('hex'),
    tier: row.tier,
    zone: row.zone,
    status,
    max_scans: row.max_scans,
    units: row.units,
    valid_from: row.valid_from?.toISOString() ?? null,
    valid_until: row.valid_until?.toISOString() ?? null,
    vip: row.vip,
    note: row.note,
  };
}

/** Returns the ticket for an overlay or a delta: a ticket without a holder is removed. */
export function ticketChange(row: TicketRow): TicketChange {
  return manifestTicket(row) ?? tombstone({ ticket_ref: row.ticket_ref, ticket_id: row.ticket_id, reason: 'invalid' });
}

export function tombstone(row: TombstoneRow): Tombstone {
  return { ticket_ref: row.ticket_ref.toString('hex'), ticket_id: row.ticket_id, removed: true, reason: row.reason };
}
