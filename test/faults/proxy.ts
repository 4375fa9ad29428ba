/**
 * A network that obeys: a TCP proxy on a loopback port, between a gate and its broker, say. It passes, cuts, falls silent, is slow,
 * or accepts everything and answers nothing. No root, no network namespaces.
 */
import { connect, createServer, type Socket } from 'node:net';

/**
 * fair: everything passes. cut: connections break (RST), new ones break at once. silent: nothing passes and nobody is told; what was
 * sent arrives when the weather is fair again, as TCP resends it. mute: connections are accepted, what they say is taken and
 * thrown away. slow: each byte comes `latencyMs` late, and at most `bytesPerSecond` of them in each direction.
 */
export type Weather =
  | { readonly kind: 'fair' | 'cut' | 'silent' | 'mute' }
  | { readonly kind: 'slow'; readonly latencyMs: number; readonly bytesPerSecond: number };

export interface TcpProxy {
  readonly port: number;
  /** From now on. Connections that were made in `mute` have lost bytes and break when it ends. */
  weather(weather: Weather): void;
  /** Connections that stand now are silent from here on and for good, as when a router on the way has forgotten them; new ones are as fair as ever. */
  freeze(): void;
  /** New connections go to this port; those that stand break. */
  retarget(port: number): void;
  /** Connections that stand now. */
  connections(): number;
  close(): Promise<void>;
}

/** Bytes on their way in one direction, with slow weather; more wait at the sender. */
const MAX_UNDER_WAY_BYTES = 256 * 1024;
/** A slow wire carries this much at a time, ms of its rate. */
const SLICE_MS = 20;

/** Listens on a free loopback port, or the one given. */
export async function openProxy(options: { readonly target: number; readonly port?: number }): Promise<TcpProxy> {
  let { target } = options;
  let now: Weather = { kind: 'fair' };
  const links = new Set<Link>();
  const server = createServer({ allowHalfOpen: true }, (client) => {
    if (now.kind === 'cut') return void client.resetAndDestroy();
    const link = createLink(
      client,
      () => target,
      () => links.delete(link),
    );
    links.add(link);
    link.weather(now);
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(options.port ?? 0, '127.0.0.1', () => resolve());
  });
  const breakAll = () => {
    for (const link of [...links]) link.break();
  };
  return {
    port: (server.address() as { port: number }).port,
    weather(next) {
      const before = now;
      now = next;
      if (next.kind === 'cut' || (before.kind === 'mute' && next.kind !== 'mute')) breakAll();
      for (const link of links) link.weather(next);
    },
    freeze() {
      for (const link of links) link.freeze();
    },
    retarget(port) {
      target = port;
      breakAll();
    },
    connections: () => links.size,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        breakAll();
      }),
  };
}

interface Link {
  weather(weather: Weather): void;
  freeze(): void;
  break(): void;
}

/** One connection and its other half, which is made when the weather lets it. */
function createLink(client: Socket, target: () => number, gone: () => void): Link {
  let upstream: Socket | null = null;
  let now: Weather = { kind: 'fair' };
  const wires: Wire[] = [];
  const end = () => {
    client.resetAndDestroy();
    upstream?.resetAndDestroy();
    for (const wire of wires) wire.close();
    gone();
  };
  client.on('error', end).on('close', end);
  const join = () => {
    if (upstream !== null) return;
    upstream = connect({ port: target(), host: '127.0.0.1', noDelay: true, allowHalfOpen: true });
    upstream.on('error', end).on('close', end);
    client.setNoDelay(true);
    wires.push(createWire(client, upstream), createWire(upstream, client));
    for (const wire of wires) wire.weather(now);
  };
  let frozen = false;
  return {
    freeze() {
      for (const wire of wires) wire.weather({ kind: 'silent' });
      frozen = true;
    },
    weather(next) {
      if (frozen) return;
      now = next;
      if (next.kind === 'mute' && upstream === null) client.resume();
      else if (next.kind === 'fair' || next.kind === 'slow') join();
      for (const wire of wires) wire.weather(next);
    },
    break: end,
  };
}

interface Wire {
  weather(weather: Weather): void;
  close(): void;
}

/** One direction of a connection. */
function createWire(from: Socket, to: Socket): Wire {
  let now: Weather = { kind: 'fair' };
  let underWay: { readonly bytes: Buffer; readonly dueMs: number }[] = [];
  let waiting = 0;
  let ended = false;
  let timer: NodeJS.Timeout | undefined;

  const deliver = (bytes: Buffer) => {
    if (!to.write(bytes)) {
      from.pause();
      to.once('drain', () => now.kind !== 'silent' && waiting < MAX_UNDER_WAY_BYTES && from.resume());
    }
  };
  const stop = () => {
    clearTimeout(timer);
    timer = undefined;
  };
  const run = () => {
    stop();
    if (now.kind === 'silent' || to.destroyed) return;
    const atMs = performance.now();
    let budget = now.kind === 'slow' ? Math.max(1, Math.floor((now.bytesPerSecond * SLICE_MS) / 1000)) : Number.POSITIVE_INFINITY;
    while (budget > 0 && underWay[0] !== undefined && (now.kind === 'fair' || underWay[0].dueMs <= atMs)) {
      const { bytes, dueMs } = underWay[0];
      const part = bytes.subarray(0, budget);
      deliver(part);
      budget -= part.length;
      waiting -= part.length;
      if (part.length === bytes.length) underWay.shift();
      else underWay[0] = { bytes: bytes.subarray(part.length), dueMs };
    }
    if (waiting < MAX_UNDER_WAY_BYTES) from.resume();
    if (underWay.length > 0) timer = setTimeout(run, SLICE_MS);
    else if (ended) to.end();
  };
  from.on('data', (bytes: Buffer) => {
    if (now.kind === 'mute') return;
    if (now.kind === 'fair' && underWay.length === 0) return deliver(bytes);
    underWay.push({ bytes, dueMs: performance.now() + (now.kind === 'slow' ? now.latencyMs : 0) });
    waiting += bytes.length;
    if (waiting >= MAX_UNDER_WAY_BYTES) from.pause();
    if (now.kind === 'slow') timer ??= setTimeout(run, SLICE_MS);
    else if (now.kind !== 'silent') run();
  });
  from.on('end', () => {
    ended = true;
    run();
  });
  return {
    weather(next) {
      now = next;
      if (next.kind === 'silent') {
        stop();
        from.pause();
        return;
      }
      if (next.kind === 'mute') underWay = [];
      run();
      if (!from.destroyed) from.resume();
    },
    close() {
      stop();
      underWay = [];
    },
  };
}
