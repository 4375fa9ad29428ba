/**
 * Watches who may speak at the broker, and says so on this machine: a file whose change starts stile-broker.service, which writes the ACL anew and
 * has Mosquitto read it (systemd/stile-broker.path). Nothing of the file is believed there; its change alone counts, so that no step of root follows
 * what the service can write.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Database } from '../db/database.ts';
import type { Log } from '../log.ts';

// With the date in it: the broker's list of revoked certificates ends, and is made anew every day.
/** Pause between two looks, in ms. A new gate may connect within two of them and the broker's reload. */
export const BROKER_RIGHTS_POLL_MS = 3_000;

export interface BrokerRightsWatch {
  /** Looks now and then every BROKER_RIGHTS_POLL_MS. Does nothing where the file's folder is missing: no broker of ours is on this machine. */
  open(): Promise<void>;
  close(): Promise<void>;
}

export interface BrokerRightsWatchOptions {
  readonly database: Database;
  readonly log: Log;
  readonly file: string;
  readonly pollMs?: number;
}

export function createBrokerRightsWatch({ database, log, file, pollMs = BROKER_RIGHTS_POLL_MS }: BrokerRightsWatchOptions): BrokerRightsWatch {
  let timer: NodeJS.Timeout | undefined;
  let looking: Promise<void> = Promise.resolve();
  let failing = false;

  const look = async (): Promise<void> => {
    try {
      const { rows } = await database.withoutTenant((client) =>
        client.query<{ digest: string }>(
          `SELECT concat_ws(' ', current_date, count(*), md5(string_agg(name || CASE WHEN revoked THEN '-' ELSE '+' END, ',' ORDER BY name)),
            (SELECT md5(string_agg(serial, ',' ORDER BY serial)) FROM revoked_certificates())) AS digest FROM broker_devices()`,
        ),
      );
      const digest = `${rows[0]?.digest ?? ''}\n`;
      if (!existsSync(file) || readFileSync(file, 'utf8') !== digest) writeFileSync(file, digest);
      failing = false;
    } catch (error) {
      if (!failing) log.warn({ error: (error as Error).message, file }, 'watching the rights at the broker failed; retrying');
      failing = true;
    }
  };
  return {
    async open() {
      if (!existsSync(dirname(file))) return;
      looking = look();
      await looking;
      timer = setInterval(() => {
        looking = looking.then(look);
      }, pollMs);
      timer.unref();
    },
    async close() {
      clearInterval(timer);
      await looking;
    },
  };
}
