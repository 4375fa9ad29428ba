/** PostgreSQL's NOTIFY, listened to on a connection of its own that comes back by itself. A lost notice only delays: whoever listens looks by the clock as well. */

import type { Log } from '../log.ts';
import { connectOwner, type OwnerConnection } from './database.ts';

const RECONNECT_MS = 1_000;
const CHANNEL = /^[a-z_]{1,63}$/;

/** Never rejects for a server that is away: it is tried again until closed. */
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
      // What was put in while nobody listened.
      onNotice();
    } catch (error) {
      log.warn({ channel, error: (error as Error).message }, 'the database cannot be listened to; it is tried again');
      again(connection);
    }
  }
  function again(lost: OwnerConnection | null): void {
    if (closed || lost !== connection) return;
    connection = null;
    // It is lost already: another one is opened.
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
      // It may be lost already: nothing listens any more either way.
      await last?.close().catch(() => {});
    },
  };
}
