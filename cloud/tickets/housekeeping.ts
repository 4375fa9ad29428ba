/** Purges expired rows, tenant after tenant, at intervals. Any number of these may run side by side. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Database } from '../db/database.ts';
import type { Log } from '../log.ts';

const EVERY_MS = 3_600_000;
/** Delay of the first run, in milliseconds, so that it does not slow down the start. */
const FIRST_AFTER_MS = 60_000;
/** Rows of each kind that one transaction deletes. */
const ROWS_AT_ONCE = 1_000;
/** Transactions for one tenant in one run; the rest waits for the next. */
const MAX_ROUNDS = 100;
const TENANTS_AT_ONCE = 100;

export interface Housekeeping {
  open(): void;
  /** Runs once, for every tenant; returns how many rows it deleted. */
  run(): Promise<number>;
  close(): Promise<void>;
}

export function createHousekeeping({ database, log }: { readonly database: Database; readonly log: Log }): Housekeeping {
  const stop = new AbortController();
  let loop: Promise<void> | null = null;

  async function run(): Promise<number> {
    let total = 0;
    let last: string | null = null;
    for (;;) {
      const { rows } = await database.withoutTenant((client) =>
        client.query<{ tenant_id: string }>('SELECT tenant_id FROM tenants_after($1, $2)', [last, TENANTS_AT_ONCE]),
      );
      if (rows.length === 0) return total;
      for (const { tenant_id } of rows) {
        last = tenant_id;
        for (let round = 0; round < MAX_ROUNDS && !stop.signal.aborted; round++) {
          const gone = await database.withTenant(tenant_id, (client) => client.query<{ n: number }>('SELECT purge_expired($1) AS n', [ROWS_AT_ONCE]));
          total += gone.rows[0]?.n ?? 0;
          if ((gone.rows[0]?.n ?? 0) < ROWS_AT_ONCE) break;
        }
      }
      if (stop.signal.aborted) return total;
    }
  }

  return {
    open() {
      loop ??= (async () => {
        for (let waitMs = FIRST_AFTER_MS; ; waitMs = EVERY_MS) {
          // The loop checks for the stop.
          await sleep(waitMs, undefined, { signal: stop.signal, ref: false }).catch(() => {});
          if (stop.signal.aborted) return;
          await run().catch((error: Error) => log.warn({ error: error.message }, 'purging expired rows failed; retrying'));
        }
      })();
    },
    run,
    async close() {
      stop.abort();
      await loop;
    },
  };
}
