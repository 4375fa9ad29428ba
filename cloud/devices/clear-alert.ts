/** Clears alerts that the cloud raised itself (`clone`, `ledger`): no gate can clear them, a person must. */
import type { DatabaseClient } from '../db/database.ts';

export interface ClearedAlert {
  readonly gate: string;
  readonly alert: string;
  /** Opaque staff id. */
  readonly actor: string;
  readonly reason: string;
}

/** Clears it and records who and why. False: the cloud has raised no such alert of this gate (a gate clears its own). A new finding raises it again. */
export async function clearAlert(client: DatabaseClient, { gate, alert, actor, reason }: ClearedAlert): Promise<boolean> {
  const { rows } = await client.query<{ cleared: boolean }>('SELECT clear_cloud_alert($1, $2, $3, $4) AS cleared', [gate, alert, actor, reason]);
  return rows[0]?.cleared === true;
}
