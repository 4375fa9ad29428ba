/**
 * Lists the subscriptions of an ingest, and their shared name.
 *
 * Any certificate may join a shared subscription whose name it knows (Mosquitto's ACL file has no rule for it), and the messages that the broker
 * then gives to it are missing at the ingesters until the gates publish them again. So the name is one that ingesters of one database derive alike
 * and nobody else can.
 */
import { createHash } from 'node:crypto';
import { INGEST_SUBSCRIPTIONS } from '../../contract/topics.ts';
import type { Database } from '../db/database.ts';

/**
 * Topics that one ingester receives; the others (status, responses) are for every process, and a shared subscription would leave out retained
 * messages.
 */
const SHARED = ['ledger', 'lookup', 'time'];
const NAME_CHARS = 32;

/** Returns the name that ingesters of this database share. Fails only when the database does. */
export async function ingestGroup(database: Database): Promise<string> {
  const { rows } = await database.withoutTenant((client) =>
    client.query<{ system: string; database: number }>(
      'SELECT system_identifier::text AS system, d.oid::bigint AS database FROM pg_control_system(), pg_database AS d WHERE d.datname = current_database()',
    ),
  );
  const { system, database: oid } = rows[0] as { system: string; database: number };
  return createHash('sha256').update(`stile-ingest ${system} ${oid}`).digest('hex').slice(0, NAME_CHARS);
}

/** `group`: shared under this name with the other ingesters, where the broker supports it (not aedes); null: everything for this process alone. */
export function ingestSubscriptions(group: string | null): string[] {
  return INGEST_SUBSCRIPTIONS.filter((filter) => !filter.endsWith('/stats')).map((filter) =>
    group !== null && SHARED.includes(filter.split('/').at(-1) as string) ? `$share/${group}/${filter}` : filter,
  );
}
