/** Reads what the cloud has committed of gates' ledgers, as `ack` messages. */
import type { AckMessage } from '../../contract/ledger.ts';
import { MAX_ACK_EPOCHS, MAX_MISSING_RANGES, SCHEMA_VERSION } from '../../contract/limits.ts';
import type { DatabaseClient } from '../db/database.ts';

/**
 * Returns the `ack` message of each gate, from committed state only: call it after the commit, or in the transaction that commits before the message is
 * sent. A gate that never sent a row has no epochs.
 */
export async function acksFor(client: DatabaseClient, gates: readonly string[]): Promise<Map<string, AckMessage>> {
  const { rows } = await client.query<{ gate: string; epoch: number; upto_seq: number; missing: [number, number][] }>(
    'SELECT gate, epoch, upto_seq, missing FROM ledger_acks($1::text[], $2, $3)',
    [gates, MAX_ACK_EPOCHS, MAX_MISSING_RANGES],
  );
  const cloud_time = new Date().toISOString();
  const acks = new Map<string, AckMessage>(gates.map((gate) => [gate, { schema: SCHEMA_VERSION, epochs: [], cloud_time }]));
  for (const { gate, epoch, upto_seq, missing } of rows) acks.get(gate)?.epochs.push({ epoch, upto_seq, missing });
  return acks;
}
