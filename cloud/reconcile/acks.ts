/** Reads what the cloud has committed of gates' ledgers, as `ack` messages. */
import type { AckMessage } from '../../contract/ledger.ts';
import { MAX_ACK_EPOCHS, MAX_MISSING_RANGES, SCHEMA_VERSION } from '../../contract/limits.ts';
import type { DatabaseClient } from '../db/database.ts';

/**
 * Returns the `ack` message of each gate, from committed state only: call it after the commit, or in the transaction that commits before the message is
 * sent. Names every epoch that is held: one that is not named is not held. `since` is the life of the database. A gate that never sent a row has no epochs.
 */
export async function acksFor(client: DatabaseClient, gates: readonly string[]): Promise<Map<string, AckMessage>> {
  const { rows } = await client.query<AckedEpoch & { gate: string }>(
    'SELECT gate, epoch, upto_seq, hash, last, missing, gone FROM ledger_acks($1::text[], $2, $3)',
    [gates, MAX_ACK_EPOCHS, MAX_MISSING_RANGES],
  );
  const life = await databaseLife(client);
  const cloud_time = new Date().toISOString();
  const acks = new Map<string, AckMessage>(gates.map((gate) => [gate, { schema: SCHEMA_VERSION, epochs: [], cloud_time, since: life }]));
  for (const { gate, hash, ...epoch } of rows) acks.get(gate)?.epochs.push(hash === null ? epoch : { ...epoch, hash });
  return acks;
}

interface AckedEpoch {
  readonly epoch: number;
  readonly upto_seq: number;
  /** null: there is no row, or it is gone and nobody knows its hash. */
  readonly hash: string | null;
  readonly last: number;
  readonly missing: [number, number][];
  readonly gone: [number, number][];
}

/** Returns the life of the database: a name that it bears until it goes back in time. */
export async function databaseLife(client: DatabaseClient): Promise<string> {
  const { rows } = await client.query<{ life: string }>('SELECT life FROM database_lives WHERE ended_at IS NULL');
  return (rows[0] as { life: string }).life;
}
