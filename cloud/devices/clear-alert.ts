/** Alerts that the cloud raised itself (`clone`, `ledger`): no gate can clear them, somebody has to. */
import type { DatabaseClient } from '../db/database.ts';

export interface ClearedAlert {
  readonly gate: string;
  readonly alert: string;
  /** Opaque staff id. */
  readonly actor: string;
  readonly reason: string;
}

/** Clears it and keeps who did so and why. False: the cloud has raised no such alert of this gate (a gate's own is the gate's to clear). A new finding raises it again. */
export async function clearAlert(client: DatabaseClient, { gate, alert, actor, reason }: ClearedAlert): Promise<boolean> {
  const { rows } = await client.query<{ cleared: boolean }>('SELECT clear_cloud_alert($1, $2, $3, $4) AS cleared', [gate, alert, actor, reason]);
  return rows[0]?.cleared === true;
}
