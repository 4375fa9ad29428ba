/** Reads the usage of tickets, as manifests and lookup answers carry it. */
import type { LedgerVector } from '../../contract/ids.ts';
import type { UsageEntry } from '../../contract/manifest.ts';
import type { DatabaseClient } from '../db/database.ts';

/** Usage of one event, and the prefix of each ledger of its site that it counts. */
export interface ManifestUsage {
  readonly upto: LedgerVector;
  /** One for each grant that counts (a returned one does not), sorted by ticket_ref, gate, epoch, seq. */
  readonly usage: UsageEntry[];
}

/**
 * Reads `upto` first, then everything at or below it: also outside a snapshot, nothing that `upto` covers is left out.
 * Of each gate's newest epoch only the contiguous prefix counts; older epochs count whole.
 */
export async function manifestUsage(client: DatabaseClient, eventId: string): Promise<ManifestUsage> {
  const prefixes = await client.query<{ gate: string; epoch: number; seq: number }>(
    `SELECT DISTINCT ON (e.gate) e.gate, e.epoch, e.upto_seq AS seq FROM ledger_epochs e JOIN ledgers l ON l.tenant_id = e.tenant_id AND l.gate = e.gate
     JOIN events v ON v.tenant_id = l.tenant_id AND v.event_id = $1 AND v.site_id = l.site_id WHERE e.tenant_id = current_tenant_id() AND (l.gate NOT LIKE '%/@%' OR ledger_in_use(l.tenant_id, l.gate)) ORDER BY e.gate, e.epoch DESC`,
    [eventId],
  );
  const upto: LedgerVector = {};
  for (const { gate, epoch, seq } of prefixes.rows) upto[gate] = [epoch, seq];
  const { rows } = await client.query<UsageRow>(
    `SELECT ${USAGE_COLUMNS} FROM admissions a LEFT JOIN jsonb_each($2::jsonb) AS p ON p.key = a.gate
     WHERE a.tenant_id = current_tenant_id() AND a.event_id = $1 AND a.granted AND a.units_used > 0
       AND (p.key IS NULL OR (a.epoch, a.seq) <= ((p.value ->> 0)::bigint, (p.value ->> 1)::bigint))
     ORDER BY a.ticket_ref, a.gate COLLATE "C", a.epoch, a.seq`,
    [eventId, JSON.stringify(upto)],
  );
  return { upto, usage: rows.map(toUsageEntry) };
}

/** Returns the known usage of one ticket, at most `limit` entries, the newest. For `lookup`. */
export async function ticketUsage(client: DatabaseClient, eventId: string, ticketId: string, limit = 1000): Promise<UsageEntry[]> {
  const { rows } = await client.query<UsageRow>(
    `SELECT ${USAGE_COLUMNS} FROM admissions a WHERE a.tenant_id = current_tenant_id() AND a.event_id = $1 AND a.ticket_id = $2 AND a.granted AND a.units_used > 0
     ORDER BY a.at DESC, a.gate COLLATE "C" DESC, a.epoch DESC, a.seq DESC LIMIT $3`,
    [eventId, ticketId, limit],
  );
  return rows.reverse().map(toUsageEntry);
}

const USAGE_COLUMNS = "encode(a.ticket_ref, 'hex') AS ticket_ref, a.gate, a.epoch, a.seq, a.at, a.direction, a.units_used AS units, a.outcome";
interface UsageRow {
  readonly ticket_ref: string;
  readonly gate: string;
  readonly epoch: number;
  readonly seq: number;
  readonly at: Date;
  readonly direction: 'in' | 'out';
  readonly units: number;
  readonly outcome: UsageEntry['outcome'];
}
const toUsageEntry = (row: UsageRow): UsageEntry => ({ ...row, at: row.at.toISOString() });
