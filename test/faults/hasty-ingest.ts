/**
 * The planted fault for exactly-once.ts: an ingest that acknowledges what it has received, before any commit. Otherwise the real one.
 * Environment: DATABASE_URL, STILE_MQTT_URL. Says `ready` when connected.
 */

import { createDatabase } from '../../cloud/db/database.ts';
import { createIngest, type Ingest } from '../../cloud/ingest/ingest.ts';
import { ingestGroup, ingestSubscriptions } from '../../cloud/ingest/shared-subscription.ts';
import { SILENT } from '../../cloud/log.ts';
import { type CloudBroker, createBroker, type IncomingMessage } from '../../cloud/mqtt/client.ts';
import { acksFor } from '../../cloud/reconcile/acks.ts';
import { markPublished, unpublishedCloudRows } from '../../cloud/reconcile/cloud-ledger.ts';
import { reconcile } from '../../cloud/reconcile/reconcile.ts';
import { type LedgerRow, readRow } from '../../cloud/reconcile/row.ts';
import { SCHEMA_VERSION } from '../../contract/limits.ts';
import { DELIVERY, parseTopic, topicOf } from '../../contract/topics.ts';

const database = createDatabase({ url: process.env['DATABASE_URL'] as string });
let ingest: Ingest | undefined;
const broker: CloudBroker = createBroker({
  settings: { url: process.env['STILE_MQTT_URL'] as string, ca: null, cert: null, key: null },
  host: null,
  subscriptions: ingestSubscriptions(await ingestGroup(database)),
  onMessage: (message) => {
    acknowledgeAtOnce(message);
    ingest?.receive(message);
  },
  onConnection: (connected) => {
    if (connected) process.stdout.write('ready\n');
  },
});

function acknowledgeAtOnce(message: IncomingMessage): void {
  const topic = parseTopic(message.topic);
  if (topic?.kind !== 'ledger') return;
  const { epoch, entries } = JSON.parse(Buffer.from(message.payload).toString()) as { epoch: number; entries: { seq: number }[] };
  const ack = { schema: SCHEMA_VERSION, epochs: [{ epoch, upto_seq: entries.at(-1)?.seq ?? 0, missing: [] }], cloud_time: new Date().toISOString() };
  void broker.publish(topicOf({ kind: 'ack', gate: topic.gate }), JSON.stringify(ack), DELIVERY.ack).catch(() => undefined);
}

ingest = createIngest<LedgerRow>({ database, broker, reconciler: { readRow, reconcile, acksFor, unpublishedCloudRows, markPublished }, log: SILENT });
await broker.open();
ingest.open();
