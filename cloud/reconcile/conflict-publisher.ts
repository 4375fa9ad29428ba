/** Publishes conflicts to the gates that caused them: rows of the kind `conflict` in the cloud's ledger of their site. */
import type { DatabaseClient } from '../db/database.ts';
import { appendCloudRows, type CloudEntry } from './cloud-ledger.ts';

interface UnpublishedConflict {
  readonly gate: string;
  readonly epoch: number;
  readonly seq: number;
  readonly verdict: 'excess' | 'withdrawn';
  readonly cause: string;
  readonly event_id: string;
  readonly ticket_id: string;
  readonly ticket_ref: string | null;
  readonly direction: 'in' | 'out' | null;
  readonly winner: readonly [string, number, number] | null;
}

/**
 * Appends unpublished conflicts of the site, at most twice `limit` rows, in the caller's transaction; returns how many. Published like every row of
 * the cloud.
 */
export async function publishConflicts(client: DatabaseClient, site: string, limit = 100): Promise<number> {
  const { rows } = await client.query<UnpublishedConflict>('SELECT * FROM take_unpublished_conflicts($1, $2)', [site, limit]);
  if (rows.length === 0) return 0;
  await appendCloudRows(
    client,
    site,
    rows.map(
      ({ gate, epoch, seq, verdict, cause, event_id, ticket_id, ticket_ref, direction, winner }): CloudEntry => ({
        kind: 'conflict',
        of: [gate, epoch, seq],
        verdict,
        cause,
        event_id,
        ticket_id,
        ...(ticket_ref === null ? {} : { ticket_ref }),
        ...(direction === null ? {} : { direction }),
        ...(winner === null ? {} : { winner }),
      }),
    ),
  );
  return rows.length;
}
