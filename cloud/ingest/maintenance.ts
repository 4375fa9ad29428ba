/** Publishes rows that the cloud wrote to the gates of their site, settles late tickets, and judges again tickets whose rights changed. */
import { setTimeout as sleep } from 'node:timers/promises';
import { MAX_LEDGER_ENTRIES, MAX_PAYLOAD_BYTES, SCHEMA_VERSION } from '../../contract/limits.ts';
import { DELIVERY, topicOf } from '../../contract/topics.ts';
import type { Database, DatabaseClient } from '../db/database.ts';
import type { Log } from '../log.ts';
import type { CloudBroker } from '../mqtt/client.ts';

/** Interval, in milliseconds, between two looks for committed rows. */
const PUBLISH_EVERY_MS = 250;
/** Interval, in milliseconds, between two looks for tickets whose rights changed after they were granted. */
const JUDGE_EVERY_MS = 1_000;
/** Interval, in milliseconds, between two looks for late tickets: those that appeared while their grants were being judged. */
const SETTLE_EVERY_MS = 10_000;
/** Interval, in milliseconds, between two looks for forked rows that stay open. */
const FORKS_EVERY_MS = 60_000;
const TENANTS_AT_ONCE = 100;

export interface MaintenanceReconciler {
  readonly unpublishedCloudRows: (
    client: DatabaseClient,
    limit: number,
  ) => Promise<readonly { readonly ledger: string; readonly epoch: number; readonly entries: readonly Readonly<Record<string, unknown>>[] }[]>;
  readonly markPublished: (client: DatabaseClient, ledger: string, epoch: number, seq: number) => Promise<void>;
  /** Appends rows about unpublished conflicts; returns how many. Absent: conflicts are not published. */
  readonly publishConflicts?: (client: DatabaseClient, site: string) => Promise<number>;
}

export interface CloudRows {
  open(): void;
  /** Publishes the waiting rows once; returns how many. */
  publish(): Promise<number>;
  /** Settles late tickets once; returns how many. */
  settle(): Promise<number>;
  /** Appends rows about unpublished conflicts once; returns how many. */
  reportConflicts(): Promise<number>;
  /** Judges due tickets again once; returns how many. */
  judge(): Promise<number>;
  /** Raises the alert `clone` of gates whose forked rows stay open for an hour; returns how many. */
  raiseClones(): Promise<number>;
  close(): Promise<void>;
}

export function createCloudRows(options: {
  readonly database: Database;
  readonly broker: Pick<CloudBroker, 'publish' | 'connected'>;
  readonly reconciler: MaintenanceReconciler;
  readonly log: Log;
}): CloudRows {
  const { database, broker, reconciler, log } = options;
  const stop = new AbortController();
  let loop: Promise<void> | null = null;

  async function publish(): Promise<number> {
    let published = 0;
    const { rows: tenants } = await database.withoutTenant((client) =>
      client.query<{ tenant_id: string }>('SELECT tenant_id FROM tenants_with_unpublished_rows($1)', [TENANTS_AT_ONCE]),
    );
    for (const { tenant_id } of tenants) {
      const ledgers = await database.withTenant(tenant_id, (client) => reconciler.unpublishedCloudRows(client, MAX_LEDGER_ENTRIES));
      for (const { ledger, epoch, entries } of ledgers) {
        for (const part of parts(entries)) {
          await broker.publish(
            topicOf({ kind: 'ledger', gate: ledger }),
            JSON.stringify({ schema: SCHEMA_VERSION, gate: ledger, epoch, entries: part }),
            DELIVERY.ledger,
          );
          await database.withTenant(tenant_id, (client) => reconciler.markPublished(client, ledger, epoch, (part.at(-1) as { seq: number }).seq));
          published += part.length;
        }
      }
    }
    return published;
  }

  async function settle(): Promise<number> {
    let settled = 0;
    const { rows: tenants } = await database.withoutTenant((client) =>
      client.query<{ tenant_id: string }>('SELECT tenant_id FROM tenants_with_late_tickets($1)', [TENANTS_AT_ONCE]),
    );
    for (const { tenant_id } of tenants)
      settled += (await database.withTenant(tenant_id, (client) => client.query<{ n: number }>('SELECT settle_late_tickets() AS n'))).rows[0]?.n ?? 0;
    const { rows: waited } = await database.withoutTenant((client) =>
      client.query<{ tenant_id: string }>('SELECT tenant_id FROM tenants_with_waiting_scans($1)', [TENANTS_AT_ONCE]),
    );
    for (const { tenant_id } of waited)
      settled += (await database.withTenant(tenant_id, (client) => client.query<{ n: number }>('SELECT settle_scans_left_waiting() AS n'))).rows[0]?.n ?? 0;
    return settled;
  }

  async function reportConflicts(): Promise<number> {
    const { publishConflicts } = reconciler;
    if (publishConflicts === undefined) return 0;
    let published = 0;
    const { rows: sites } = await database.withoutTenant((client) =>
      client.query<{ tenant_id: string; site_id: string }>('SELECT tenant_id, site_id FROM sites_with_unpublished_conflicts($1)', [TENANTS_AT_ONCE]),
    );
    for (const { tenant_id, site_id } of sites) published += await database.withTenant(tenant_id, (client) => publishConflicts(client, site_id));
    return published;
  }

  async function judge(): Promise<number> {
    let judged = 0;
    const { rows: tenants } = await database.withoutTenant((client) =>
      client.query<{ tenant_id: string }>('SELECT tenant_id FROM tenants_with_judgements_due($1)', [TENANTS_AT_ONCE]),
    );
    for (const { tenant_id } of tenants)
      judged += (await database.withTenant(tenant_id, (client) => client.query<{ n: number }>('SELECT re_evaluate_due_tickets() AS n'))).rows[0]?.n ?? 0;
    return judged;
  }

  async function raiseClones(): Promise<number> {
    let raised = 0;
    const { rows: tenants } = await database.withoutTenant((client) =>
      client.query<{ tenant_id: string }>('SELECT tenant_id FROM tenants_with_open_forks($1)', [TENANTS_AT_ONCE]),
    );
    for (const { tenant_id } of tenants)
      raised += (await database.withTenant(tenant_id, (client) => client.query<{ n: number }>('SELECT raise_clone_alerts() AS n'))).rows[0]?.n ?? 0;
    return raised;
  }

  return {
    open() {
      loop ??= (async () => {
        let nextSettle = 0;
        let nextForks = 0;
        let nextJudge = 0;
        while (!stop.signal.aborted) {
          try {
            if (broker.connected()) await publish();
            if (Date.now() >= nextJudge) {
              nextJudge = Date.now() + JUDGE_EVERY_MS;
              await judge();
              await reportConflicts();
            }
            if (Date.now() >= nextSettle) {
              nextSettle = Date.now() + SETTLE_EVERY_MS;
              await settle();
            }
            if (Date.now() >= nextForks) {
              nextForks = Date.now() + FORKS_EVERY_MS;
              await raiseClones();
            }
          } catch (error) {
            log.warn({ error: (error as Error).message }, 'publishing rows of the cloud failed; retrying');
          }
          // The loop checks for the stop.
          await sleep(PUBLISH_EVERY_MS, undefined, { signal: stop.signal }).catch(() => {});
        }
      })();
    },
    publish,
    settle,
    judge,
    reportConflicts,
    raiseClones,
    async close() {
      stop.abort();
      await loop;
    },
  };
}

/** Bytes of the message beside its entries. */
const ENVELOPE_BYTES = 512;

/** Splits entries into messages of the largest size. */
function* parts(entries: readonly Readonly<Record<string, unknown>>[]): Generator<readonly Readonly<Record<string, unknown>>[]> {
  let part: Readonly<Record<string, unknown>>[] = [];
  let bytes = ENVELOPE_BYTES;
  for (const entry of entries) {
    const size = Buffer.byteLength(JSON.stringify(entry)) + 1;
    if (part.length > 0 && bytes + size > MAX_PAYLOAD_BYTES) {
      yield part;
      part = [];
      bytes = ENVELOPE_BYTES;
    }
    part.push(entry);
    bytes += size;
  }
  if (part.length > 0) yield part;
}
