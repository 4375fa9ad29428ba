/** Reads what the cloud has committed of gates' ledgers, as `ack` messages. */
import { splitGateName } from '../../contract/ids.ts';
import type { AckMessage, GoneRange } from '../../contract/ledger.ts';
import { MAX_ACK_EPOCHS, MAX_MISSING_RANGES, SCHEMA_VERSION } from '../../contract/limits.ts';
import type { LedgerHeads } from '../../contract/references.ts';
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

/** Records places of a gate's ledger whose rows it pruned before they were stored: `upto_seq` passes over them, and a row that arrives later fills one. */
export async function declareGone(client: DatabaseClient, gate: string, gone: readonly GoneRange[]): Promise<void> {
  await client.query(
    "SELECT declare_gone($1, $2::bigint[], $3::bigint[], $4::bigint[], (SELECT array_agg(decode(h, 'hex') ORDER BY p) FROM unnest($5::text[]) WITH ORDINALITY AS x (h, p)))",
    [gate, gone.map(([epoch]) => epoch), gone.map(([, from]) => from), gone.map(([, , to]) => to), gone.map(([, , , hash]) => hash)],
  );
}

/** Ranges that one answer to a gate's question asks back; of more, those of the cloud's ledgers first. */
const MAX_WANTED_RANGES = 100;

export async function takeHeads(
  client: DatabaseClient,
  gate: string,
  heads: LedgerHeads,
): Promise<{ ahead: boolean; wants: [string, number, number, number][] }> {
  const { rows } = await client.query<{ answer: { ahead: boolean; wants: [string, number, number, number][] } }>(
    'SELECT take_heads($1, $2::jsonb, $3) AS answer',
    [splitGateName(gate).site, JSON.stringify(heads), MAX_WANTED_RANGES],
  );
  return (rows[0] as (typeof rows)[0]).answer;
}
