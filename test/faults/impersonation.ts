/**
 * What no broker can see: a gate that says on its own topic that it is another gate, and one that joins the ingesters' shared
 * subscription, so that the rows dealt to it are missing at the cloud. Tried on the real ingest over the real broker, with the gates of
 * each site enrolled in a tenant of their own.
 */
import { randomUUID } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createIngest, type Ingest } from '../../cloud/ingest/ingest.ts';
import { ingestGroup, ingestSubscriptions } from '../../cloud/ingest/shared-subscription.ts';
import { SILENT } from '../../cloud/log.ts';
import { createBroker } from '../../cloud/mqtt/client.ts';
import { acksFor } from '../../cloud/reconcile/acks.ts';
import { markPublished, unpublishedCloudRows } from '../../cloud/reconcile/cloud-ledger.ts';
import { reconcile } from '../../cloud/reconcile/reconcile.ts';
import { type LedgerRow, readRow } from '../../cloud/reconcile/row.ts';
import { freshDatabase, makeVenue, type Venue } from '../../testkit/database.ts';
import { testLedger } from '../../testkit/ledgers.ts';
import { connectPeer, type Peer } from '../../testkit/mqtt-client.ts';
import { as, type Matrix } from './fleet.ts';

/** True rows of each gate, each in a message of its own that is sent once: one that was dealt to a thief is missing. */
const TRUTHS = 20;
/** What a thief would try. */
const SHARES = ['stile-ingest', 'stile', 'ingest', 'cloud', '+'];

export interface Lies {
  /** Lies told, and who joined what he should not. */
  readonly told: number;
  readonly thieves: number;
  /** Lies that were believed, in words; true rows that did not arrive. */
  readonly believed: readonly string[];
  readonly unheard: readonly string[];
}

/** Every gate tells a row of every other one in its own topic, and true ones of itself, while thieves listen. `thievesKnow` (a plant): they are told the name of the share. */
export async function tellLies(matrix: Matrix, options: { readonly thievesKnow?: boolean } = {}): Promise<Lies> {
  const fresh = await freshDatabase();
  const dir = mkdtempSync(join(tmpdir(), 'stile-lies-'));
  try {
    const { cloudCert, cloudKey, ca } = { cloudCert: join(dir, 'cert'), cloudKey: join(dir, 'key'), ca: join(dir, 'ca') };
    writeFileSync(cloudCert, matrix.ca.cloud.cert);
    writeFileSync(cloudKey, matrix.ca.cloud.key, { mode: 0o600 });
    writeFileSync(ca, matrix.ca.ca);
    const venues = new Map<string, Venue>();
    for (const [site, gates] of Map.groupBy(matrix.fleet.gates, (gate) => gate.split('/')[0] as string))
      venues.set(site, await makeVenue(fresh.url, { site, gates: gates.map((gate) => gate.split('/')[1] as string), tickets: 1 }));
    let ingest: Ingest | undefined;
    const broker = createBroker({
      settings: { url: matrix.broker.cloudUrl, ca, cert: cloudCert, key: cloudKey },
      host: null,
      subscriptions: ingestSubscriptions(await ingestGroup(fresh.database)),
      onMessage: (message) => ingest?.receive(message),
    });
    ingest = createIngest<LedgerRow>({
      database: fresh.database,
      broker,
      reconciler: { readRow, reconcile, acksFor, unpublishedCloudRows, markPublished },
      log: SILENT,
    });
    await broker.open();
    const thieves: Peer[] = [];
    for (const who of matrix.people.filter(({ name }) => name.startsWith('arena/') && !matrix.fleet.gates.includes(name))) {
      const thief = await connectPeer(who.url, as(matrix, who, 5));
      thieves.push(thief);
      const names = options.thievesKnow === true ? [await ingestGroup(fresh.database)] : SHARES;
      for (const share of names) await thief.subscribe(`$share/${share}/stile/1/+/+/ledger`).catch(() => undefined);
    }
    let told = 0;
    for (const liar of matrix.people.filter(({ name }) => matrix.fleet.gates.includes(name))) {
      const peer = await connectPeer(liar.url, as(matrix, liar, 5));
      for (const victim of matrix.fleet.gates) {
        const venue = venues.get(victim.split('/')[0] as string) as Venue;
        const ledger = testLedger(venue, venue.gates.indexOf(victim), victim === liar.name ? 1 : 2);
        for (let row = 0; row < (victim === liar.name ? TRUTHS : 1); row++) {
          const entry = ledger.add('alarm', row, { what: 'test', detail: `told by ${liar.name} ${randomUUID()}` });
          await peer.publish(`stile/1/${liar.name}/ledger`, ledger.message([entry]));
        }
        if (victim !== liar.name) told += 1;
      }
      await peer.end();
    }
    const truths = matrix.fleet.gates.length * TRUTHS;
    const seen = async () =>
      (
        await fresh.database.asOwner((client) =>
          client.query<{ gate: string; entry: string; right: boolean; put_away: number }>(
            `SELECT l.gate, l.entry, (l.entry LIKE '%told by ' || l.gate || ' %' AND d.tenant_id = l.tenant_id) AS right, (SELECT count(*)::int FROM quarantine WHERE reason = 'mismatch') AS put_away
             FROM ledger_rows l LEFT JOIN devices d ON d.name = l.gate`,
          ),
        )
      ).rows;
    for (let waited = 0; waited < 100; waited++) {
      const rows = await seen();
      if (rows.length >= truths && (rows[0]?.put_away ?? 0) >= told) break;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    await ingest.idle();
    const rows = await seen();
    for (const thief of thieves) await thief.end();
    await ingest.close();
    await broker.close();
    const put = rows[0]?.put_away ?? 0;
    return {
      told,
      thieves: thieves.length * SHARES.length,
      believed: rows.filter(({ right }) => !right).map(({ gate, entry }) => `a row of ${gate} that it never wrote: ${entry.slice(0, 200)}`),
      unheard: [
        ...matrix.fleet.gates
          .map((gate) => ({ gate, missing: TRUTHS - rows.filter((row) => row.gate === gate).length }))
          .filter(({ missing }) => missing > 0)
          .map(({ gate, missing }) => `${missing} of ${TRUTHS} true rows of ${gate} did not reach the cloud`),
        ...(put === told ? [] : [`${told} lies were told and ${put} are in quarantine`]),
      ],
    };
  } finally {
    rmSync(dir, { recursive: true, force: true });
    await fresh.drop();
  }
}
