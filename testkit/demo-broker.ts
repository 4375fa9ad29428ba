/**
 * The demo's broker: aedes (MQTT 3.1.1), in this process, on loopback. Not for a venue: nothing it holds survives it.
 * It can be cut and restored, so that one sees gates go on without it.
 */
import { createServer, type Server, type Socket } from 'node:net';
import { Aedes } from 'aedes';

export interface DemoBroker {
  readonly url: string;
  up(): boolean;
  /** Drops every connection and refuses new ones. */
  cut(): Promise<void>;
  /** Listens again, on the same port. */
  restore(): Promise<void>;
  close(): Promise<void>;
}

/** Listens on a free port of 127.0.0.1. */
export async function startDemoBroker(): Promise<DemoBroker> {
  const aedes = await Aedes.createBroker({ concurrency: 100, queueLimit: 1000, heartbeatInterval: 10_000 });
  const sockets = new Set<Socket>();
  let port = 0;
  let server: Server | null = null;

  const listen = async () => {
    const next = createServer((socket) => {
      sockets.add(socket);
      socket.on('close', () => sockets.delete(socket)).on('error', () => socket.destroy());
      aedes.handle(socket);
    });
    await new Promise<void>((resolve, reject) => {
      next.once('error', reject).listen(port, '127.0.0.1', resolve);
    });
    port = (next.address() as { port: number }).port;
    server = next;
  };
  const cut = async () => {
    const old = server;
    server = null;
    if (old === null) return;
    const closed = new Promise<void>((resolve) => old.close(() => resolve()));
    for (const socket of sockets) socket.destroy();
    await closed;
  };
  await listen();
  return {
    url: `mqtt://127.0.0.1:${port}`,
    up: () => server !== null,
    cut,
    restore: async () => {
      if (server === null) await listen();
    },
    close: async () => {
      await cut();
      await new Promise<void>((resolve) => aedes.close(() => resolve()));
    },
  };
}
