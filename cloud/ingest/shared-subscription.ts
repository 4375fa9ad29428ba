/**
 * What an ingest subscribes to, and under which shared name.
 *
 * Whoever has a certificate may join a shared subscription whose name it knows (Mosquitto's ACL file has no rule for it), and the
 * messages that are then dealt to it are missing at the ingesters until the gates send them again. So the name is one that
 * ingesters of one database find out alike and nobody else can.
 */
import { createHash } from 'node:crypto';
import { INGEST_SUBSCRIPTIONS } from '../../contract/topics.ts';
import type { Database } from '../db/database.ts';

/** Of these one ingester is enough; the others (last words, responses) are for every process, and a shared subscription would leave out what is retained. */
const SHARED = ['ledger', 'lookup', 'time'];
const NAME_CHARS = 32;

/** The name that ingesters of this database share. Fails only when the database does. */
export async function ingestGroup(database: Database): Promise<string> {
  const { rows } = await database.withoutTenant((client) =>
    client.query<{ system: string; database: number }>(
      'SELECT system_identifier::text AS system, d.oid::bigint AS database FROM pg_control_system(), pg_database AS d WHERE d.datname = current_database()',
    ),
  );
  const { system, database: oid } = rows[0] as { system: string; database: number };
  return createHash('sha256').update(`stile-ingest ${system} ${oid}`).digest('hex').slice(0, NAME_CHARS);
}

/** `group`: shared under this name with the other ingesters, where the broker can (not aedes); null: everything for this process alone. */
export function ingestSubscriptions(group: string | null): string[] {
  return INGEST_SUBSCRIPTIONS.filter((filter) => !filter.endsWith('/stats')).map((filter) =>
    group !== null && SHARED.includes(filter.split('/').at(-1) as string) ? `$share/${group}/${filter}` : filter,
  );
}
