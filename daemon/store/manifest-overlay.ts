/**
 * Rights that changed since the manifest file: in the ledger's database, in the order of their versions, the latest word of each ticket.
 */
import type { TicketChange } from '../../contract/manifest.ts';
import type { TicketFacts } from '../../rules/facts.ts';
import type { Ledger } from './ledger.ts';

/** Changes kept for one event; past this a new manifest file is due, and further changes are refused as `gap` so that it is fetched. */
export const MAX_OVERLAY_ROWS = 200_000;

export type OverlayHit =
  | { readonly kind: 'ticket'; readonly ticket: TicketFacts }
  | { readonly kind: 'removed'; readonly reason: 'invalid' | 'revoked' | 'canceled' };

export interface Overlays {
  find(eventId: string, ref: Buffer): OverlayHit | null;
  /** Part of a transaction. */
  put(eventId: string, version: number, changes: readonly TicketChange[]): void;
  /** Drops the changes that a manifest file of this version holds now. Part of a transaction. */
  dropUpTo(eventId: string, version: number): void;
  count(eventId: string): number;
}

export function createOverlays(ledger: Ledger): Overlays {
  const { db } = ledger;
  const one = db.prepare<[string, Buffer], { change: string }>('SELECT change FROM overlays WHERE event_id = ? AND ref = ?');
  const put = db.prepare<[string, Buffer, number, string]>(
    'INSERT INTO overlays (event_id, ref, version, change) VALUES (?, ?, ?, ?) ON CONFLICT (event_id, ref) DO UPDATE SET version = excluded.version, change = excluded.change WHERE excluded.version >= version',
  );
  const drop = db.prepare<[string, number]>('DELETE FROM overlays WHERE event_id = ? AND version <= ?');
  const count = db.prepare<[string], { n: number }>('SELECT count(*) AS n FROM overlays WHERE event_id = ?');
  /** Events that have any change: most have none, and are not looked up. */
  const changed = new Set(
    db
      .prepare<[], { event_id: string }>('SELECT DISTINCT event_id FROM overlays')
      .all()
      .map((row) => row.event_id),
  );
  return {
    find(eventId, ref) {
      if (!changed.has(eventId)) return null;
      const row = one.get(eventId, ref);
      if (row === undefined) return null;
      const change = JSON.parse(row.change) as TicketChange;
      return 'removed' in change && change.removed === true
        ? { kind: 'removed', reason: change.reason as Extract<OverlayHit, { kind: 'removed' }>['reason'] }
        : { kind: 'ticket', ticket: factsOfChange(eventId, change as Exclude<TicketChange, { removed: true }>) };
    },
    put(eventId, version, changes) {
      changed.add(eventId);
      for (const change of changes) put.run(eventId, Buffer.from(change.ticket_ref, 'hex'), version, JSON.stringify(change));
    },
    dropUpTo(eventId, version) {
      drop.run(eventId, version);
    },
    count: (eventId) => count.get(eventId)?.n ?? 0,
  };
}

function factsOfChange(eventId: string, change: Exclude<TicketChange, { removed: true }>): TicketFacts {
  const time = (text: string | null) => (text === null ? null : Date.parse(text));
  return {
    eventId,
    ticketId: change.ticket_id,
    ticketRef: change.ticket_ref,
    tier: change.tier,
    zone: change.zone,
    status: change.status,
    maxScans: change.max_scans,
    units: change.units,
    validFromMs: time(change.valid_from),
    validUntilMs: time(change.valid_until),
    vip: change.vip,
    note: change.note,
    source: 'overlay',
  };
}
