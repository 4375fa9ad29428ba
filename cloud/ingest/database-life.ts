/**
 * Notices that the database went back in time (it was restored from an older copy) and begins a new life of it: gates then send what it lacks, and every
 * ledger that the cloud writes begins a new epoch.
 */
import type { AckMessage } from '../../contract/ledger.ts';
import { DELIVERY, topicOf } from '../../contract/topics.ts';
import type { Database, DatabaseClient } from '../db/database.ts';
import type { Log } from '../log.ts';
import type { CloudBroker } from '../mqtt/client.ts';
import type { Senders } from './sender-cache.ts';

/** Gates whose acknowledgements are read, or published, together. */
const GATES_AT_ONCE = 200;

export type AcksFor = (client: DatabaseClient, gates: readonly string[]) => Promise<Map<string, AckMessage>>;

interface Life {
  readonly life: string;
  readonly present: boolean;
}

/**
 * Compares what was acknowledged before with what the database holds, before anything is acknowledged anew. Begins a new life where an acknowledgement
 * names a life that this database never had, or more rows than it holds in its present life. Returns whether it did.
 */
export async function checkLife(options: {
  readonly database: Database;
  readonly senders: Senders;
  readonly acksFor: AcksFor;
  readonly retained: ReadonlyMap<string, AckMessage>;
  readonly log: Log;
}): Promise<boolean> {
  const { database, log } = options;
  const { rows: lives } = await database.withoutTenant((client) => client.query<Life>('SELECT life, ended_at IS NULL AS present FROM database_lives'));
  const present = lives.find((life) => life.present)?.life;
  if (present === undefined) return false;
  const why = await whyBehind(options, new Map(lives.map((life) => [life.life, life.present])));
  if (why === null) return false;
  const now = await renewLife(database, present, why);
  log.error({ life: now, why, alert: 'ledger' }, 'the database went back in time: it begins a new life, and gates send what it lacks');
  return true;
}

/** Begins a new life where `present` still is the present one; returns the life that then is. */
export async function renewLife(database: Database, present: string, why: string): Promise<string> {
  const { rows } = await database.withoutTenant((client) => client.query<{ life: string }>('SELECT renew_database_life($1, $2) AS life', [present, why]));
  return (rows[0] as { life: string }).life;
}

export async function presentLife(database: Database): Promise<string> {
  const { rows } = await database.withoutTenant((client) => client.query<{ life: string }>('SELECT life FROM database_lives WHERE ended_at IS NULL'));
  return (rows[0] as { life: string }).life;
}

async function whyBehind(
  { database, senders, acksFor, retained }: Parameters<typeof checkLife>[0],
  /** Every life that this database knows, and whether it is the present one. */
  lives: ReadonlyMap<string, boolean>,
): Promise<string | null> {
  const resolved = await senders.resolveAll([...retained.keys()]);
  const gates = [...retained].flatMap(([gate, ack]) => {
    const sender = resolved.get(gate);
    return sender?.kind === 'device' ? [{ gate, ack, tenantId: sender.tenantId }] : [];
  });
  const strange = gates.find(({ ack }) => ack.since !== undefined && !lives.has(String(ack.since)));
  if (strange !== undefined) return `${strange.gate} was acknowledged by a database of another life`;
  // What an ended life acknowledged is the reason for which it ended.
  const comparable = gates.filter(({ ack }) => ack.since === undefined || lives.get(String(ack.since)) === true);
  for (const [tenantId, theirs] of Map.groupBy(comparable, (gate) => gate.tenantId)) {
    for (let from = 0; from < theirs.length; from += GATES_AT_ONCE) {
      const some = theirs.filter((_, index) => index >= from && index < from + GATES_AT_ONCE);
      const held = await database.withTenant(tenantId, (client) =>
        acksFor(
          client,
          some.map(({ gate }) => gate),
        ),
      );
      for (const { gate, ack } of some) {
        const more = ack.epochs.find(({ epoch, upto_seq }) => upto_seq > (held.get(gate)?.epochs.find((own) => own.epoch === epoch)?.upto_seq ?? 0));
        if (more !== undefined) return `${gate} was acknowledged up to row ${more.upto_seq} of epoch ${more.epoch}, which is not stored`;
      }
    }
  }
  return null;
}

/** Publishes the acknowledgement of every gate: at the start, and when a life begins. Returns how many. */
export async function publishAllAcks(options: {
  readonly database: Database;
  readonly broker: Pick<CloudBroker, 'publish'>;
  readonly acksFor: AcksFor;
}): Promise<number> {
  const { database, broker, acksFor } = options;
  let published = 0;
  const { rows: tenants } = await database.withoutTenant((client) => client.query<{ tenant_id: string }>('SELECT tenant_id FROM tenants_with_gates()'));
  for (const { tenant_id } of tenants) {
    for (let after = ''; ; ) {
      const acks = await database.withTenant(tenant_id, async (client) => {
        const { rows } = await client.query<{ name: string }>(
          'SELECT name FROM devices WHERE tenant_id = current_tenant_id() AND name > $1 AND revoked_at IS NULL AND EXISTS (SELECT FROM ledger_epochs e WHERE e.tenant_id = devices.tenant_id AND e.gate = devices.name) ORDER BY name LIMIT $2',
          [after, GATES_AT_ONCE],
        );
        return acksFor(
          client,
          rows.map(({ name }) => name),
        );
      });
      if (acks.size === 0) break;
      await Promise.all([...acks].map(([gate, ack]) => broker.publish(topicOf({ kind: 'ack', gate }), JSON.stringify(ack), DELIVERY.ack)));
      published += acks.size;
      after = [...acks.keys()].at(-1) as string;
    }
  }
  return published;
}
