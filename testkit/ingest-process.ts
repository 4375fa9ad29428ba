/** An ingest as a process of its own, for tests that kill it. Environment: DATABASE_URL, STILE_MQTT_URL. Says `ready` when connected. */

import { createDatabase } from '../cloud/db/database.ts';
import { createIngest, type Ingest } from '../cloud/ingest/ingest.ts';
import { ingestGroup, ingestSubscriptions } from '../cloud/ingest/shared-subscription.ts';
import { SILENT } from '../cloud/log.ts';
import { createBroker } from '../cloud/mqtt/client.ts';
import { acksFor } from '../cloud/reconcile/acks.ts';
import { markPublished, unpublishedCloudRows } from '../cloud/reconcile/cloud-ledger.ts';
import { reconcile } from '../cloud/reconcile/reconcile.ts';
import { type LedgerRow, readRow } from '../cloud/reconcile/row.ts';

const database = createDatabase({ url: process.env['DATABASE_URL'] as string });
let ingest: Ingest | undefined;
const broker = createBroker({
  settings: { url: process.env['STILE_MQTT_URL'] as string, ca: null, cert: null, key: null },
  host: null,
  subscriptions: ingestSubscriptions(await ingestGroup(database)),
  onMessage: (message) => ingest?.receive(message),
  onConnection: (connected) => {
    if (connected) process.stdout.write('ready\n');
  },
});
ingest = createIngest<LedgerRow>({ database, broker, reconciler: { readRow, reconcile, acksFor, unpublishedCloudRows, markPublished }, log: SILENT });
await broker.open();
ingest.open();
