/** Lists the grants that wait for an operator: whether the guest passed is not known. */
import type { z } from 'zod';
import type { UnsettledView } from '../../contract/http.ts';
import type { DatabaseClient } from '../db/database.ts';
import { MAX_ANSWER_ITEMS, shownAt } from './queries.ts';

/** Age, in milliseconds, from which a grant without any passage row counts as unsettled: a younger one's guest may still be in the lane. */
const OPEN_FOR_MS = 120_000;

export type Unsettled = z.infer<typeof UnsettledView>;

/** Returns the newest, of one event or of all, and whether there are more. */
export async function unsettled(
  client: DatabaseClient,
  eventId: string | null = null,
  limit = MAX_ANSWER_ITEMS,
): Promise<{ unsettled: Unsettled[]; more: boolean }> {
  const most = Math.min(Math.max(1, limit), MAX_ANSWER_ITEMS);
  const { rows } = await client.query<UnsettledRow>(
    `SELECT a.gate, a.epoch, a.seq, a.scanner, ${shownAt('a.at', 'coalesce(r.received_at, a.at)')} AS at, a.event_id, a.ticket_id, a.direction, a.units, CASE a.outcome WHEN 'open' THEN a.units ELSE a.units_uncertain END AS units_uncertain, a.outcome, NOT coalesce(a.placed, false) AS unmeasured
     FROM admissions a LEFT JOIN LATERAL (SELECT x.received_at FROM ledger_rows x WHERE x.tenant_id = a.tenant_id AND x.gate = a.gate AND x.epoch = a.epoch AND x.seq = a.seq LIMIT 1) AS r ON true
     WHERE a.tenant_id = current_tenant_id() AND a.granted AND (a.outcome IN ('stuck', 'unknown') OR (a.outcome = 'open' AND a.at < now() - make_interval(secs => $2::double precision / 1000)))
       AND ($1::text IS NULL OR a.event_id = $1) ORDER BY a.at DESC, a.gate COLLATE "C" DESC, a.epoch DESC, a.seq DESC LIMIT $3`,
    [eventId, OPEN_FOR_MS, most + 1],
  );
  return {
    unsettled: rows.slice(0, most).map(({ at, scanner, unmeasured, ...row }) => ({
      ...row,
      at: at.toISOString(),
      ...(scanner === null || scanner === row.gate ? {} : { device: scanner }),
      ...(unmeasured ? { unmeasured: true as const } : {}),
    })),
    more: rows.length > most,
  };
}
interface UnsettledRow {
  readonly gate: string;
  readonly epoch: number;
  readonly seq: number;
  readonly scanner: string | null;
  readonly at: Date;
  readonly event_id: string;
  readonly ticket_id: string;
  readonly direction: 'in' | 'out';
  readonly units: number;
  readonly units_uncertain: number;
  readonly outcome: 'open' | 'stuck' | 'unknown';
  readonly unmeasured: boolean;
}
