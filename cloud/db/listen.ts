/** Listens to PostgreSQL's NOTIFY on a connection of its own and reconnects by itself. A lost notice only delays: listeners poll as well. */

import type { Log } from '../log.ts';
import { connectOwner, type OwnerConnection } from './database.ts';

const RECONNECT_MS = 1_000;
const CHANNEL = /^[a-z_]{1,63}$/;

/** Never rejects while the server is away: it retries until closed. */
export async function listenTo(url: string, channel: string, log: Log, onNotice: () => void): Promise<{ close(): Promise<void> }> {
  if (!CHANNEL.test(channel)) throw new TypeError(`not a channel: ${channel}`);
  let connection: OwnerConnection | null = null;
  let timer: NodeJS.Timeout | undefined;
  let closed = false;

  async function connect(): Promise<void> {
    try {
      const opened = await connectOwner(url);
      if (closed) {
        await opened.close();
        return;
      }
      connection = opened;
      opened.client.on('notification', onNotice);
      opened.client.on('end', () => again(opened));
      await opened.query(`LISTEN ${channel}`);
      // Changes that were made while nobody listened.
      onNotice();
    } catch (error) {
      log.warn({ channel, error: (error as Error).message }, 'LISTEN failed; retrying');
      again(connection);
    }
  }
  function again(lost: OwnerConnection | null): void {
    if (closed || lost !== connection) return;
    connection = null;
    // The connection is lost already: another one is opened.
    void lost?.close().catch(() => {});
    clearTimeout(timer);
    timer = setTimeout(() => void connect(), RECONNECT_MS);
  }

  await connect();
  return {
    async close() {
      closed = true;
      clearTimeout(timer);
      const last = connection;
      connection = null;
      // The connection may be lost already.
      await last?.close().catch(() => {});
    },
  };
}
