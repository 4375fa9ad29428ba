/**
 * A model of an MQTT broker and of the network before it: sessions, subscriptions, retained messages, QoS 1 with its PUBACK; lost
 * connections, lost, doubled and delayed messages, restarts that forget.
 *
 * Its ACL holds each client to its own topics, as the generated one does: a gate publishes below its own name alone.
 */
import type { Incoming, openSession, Published, Session, SessionEnd, SessionHandlers } from '../../daemon/link/mqtt-session.ts';
import type { Random } from '../../testkit/prng.ts';
import type { Owner, Scheduler } from './scheduler.ts';

/** The behaviour of the network in this history. Shares are of messages. */
export interface Network {
  readonly latencyMs: readonly [min: number, max: number];
  readonly lost: number;
  readonly doubled: number;
  readonly late: number;
}

export interface Delivery {
  readonly topic: string;
  readonly payload: Uint8Array;
  readonly retained: boolean;
  /** Who the broker says sent it. */
  readonly sender: string;
}

/** A connection of the cloud: always there unless it is cut. */
export interface CloudConnection {
  publish(topic: string, payload: Uint8Array, retain: boolean): void;
}

interface Connected {
  readonly id: string;
  readonly owner: Owner;
  readonly filters: Set<string>;
  readonly deliver: (delivery: Delivery) => void;
  readonly drop: (cause: string) => void;
  /** FIFO both ways: no message arrives before the one sent before it, unless the network delays it. */
  upMs: number;
  downMs: number;
}

export interface Broker {
  /** In place of link/session.ts's, for one process of a gate. */
  sessionFor(owner: Owner): typeof openSession;
  connectCloud(owner: Owner, deliver: (delivery: Delivery) => void, gone: () => void): CloudConnection | null;
  /** Cuts a client off, or heals it; either side notices only after a while. */
  cut(id: string, cut: boolean): void;
  /** The client's process is gone: the broker notices after a while. */
  abandoned(id: string): void;
  stop(keepsRetained: boolean): void;
  start(): void;
  readonly up: boolean;
  /** From now on nothing is lost, doubled or late; or as the network is again. */
  calm(on: boolean): void;
  /** Publishes a message from outside the model (a test's intruder). */
  inject(topic: string, payload: Uint8Array, sender: string): void;
}

const CLOUD = 'cloud';
/** A dead connection is noticed after so long, ms: half a keep-alive. */
const NOTICED_MS = 7_500;
const DELAYED_MS = 900;

export function createBroker(scheduler: Scheduler, random: Random, network: Network, said: (what: string) => void): Broker {
  const clients = new Map<string, Connected>();
  const retained = new Map<string, { readonly payload: Uint8Array; readonly sender: string }>();
  const cuts = new Set<string>();
  let up = true;
  let calm = false;

  const latency = (): number => network.latencyMs[0] + random.next() * (network.latencyMs[1] - network.latencyMs[0]);
  const reachable = (id: string): boolean => up && !cuts.has(id);
  const mayPublish = (id: string, topic: string): boolean => id === CLOUD || topic.startsWith(`stile/1/${id}/`);

  function toClient(client: Connected, delivery: Delivery, retain: boolean): void {
    const careful = retain || calm;
    if (!careful && random.chance(network.lost)) return said(`lost ${delivery.topic} to ${client.id}`);
    const late = !careful && random.chance(network.late);
    const atMs = late ? scheduler.nowMs() + DELAYED_MS * random.next() : Math.max(client.downMs, scheduler.nowMs() + latency());
    if (!late) client.downMs = atMs;
    const arrive = () => {
      if (clients.get(client.id) === client && reachable(client.id)) client.deliver(delivery);
    };
    scheduler.after(atMs - scheduler.nowMs(), client.owner, arrive);
    if (!careful && random.chance(network.doubled)) scheduler.after(atMs - scheduler.nowMs() + DELAYED_MS * random.next(), client.owner, arrive);
  }
  function route(topic: string, payload: Uint8Array, retain: boolean, sender: string): void {
    if (retain && payload.byteLength === 0) retained.delete(topic);
    else if (retain) retained.set(topic, { payload, sender });
    for (const client of clients.values()) {
      if (client.id === sender) continue;
      for (const filter of client.filters) {
        if (!matches(filter, topic)) continue;
        // What is retained is given again, and after the cloud's last row no other shows that it is missing: a live connection loses neither.
        toClient(client, { topic, payload, retained: false, sender }, retain || sender === CLOUD);
        break;
      }
    }
  }
  function add(client: Connected): void {
    clients.get(client.id)?.drop('taken over');
    clients.set(client.id, client);
  }
  function noticeSoon(id: string): void {
    const client = clients.get(id);
    if (client === undefined) return;
    scheduler.after(random.next() * NOTICED_MS, null, () => {
      if (clients.get(id) !== client) return;
      clients.delete(id);
      client.drop('the network is cut');
    });
  }
  const arriving = (client: Connected, run: () => void): void => {
    const atMs = Math.max(client.upMs, scheduler.nowMs() + latency());
    client.upMs = atMs;
    scheduler.after(atMs - scheduler.nowMs(), client.owner, () => {
      if (clients.get(client.id) === client && reachable(client.id)) run();
    });
  };

  return {
    sessionFor: (owner) => (options, handlers) => openSimSession(owner, options.clientId, options.will, handlers),
    connectCloud(owner, deliver, gone) {
      if (!reachable(CLOUD)) return null;
      const client: Connected = { id: CLOUD, owner, filters: new Set(['stile/1/+/+/ledger', 'stile/1/+/+/time']), deliver, drop: gone, upMs: 0, downMs: 0 };
      add(client);
      return { publish: (topic, payload, retain) => arriving(client, () => route(topic, payload, retain, CLOUD)) };
    },
    cut(id, cut) {
      if (!cut) {
        cuts.delete(id);
        return;
      }
      cuts.add(id);
      noticeSoon(id);
    },
    abandoned: noticeSoon,
    stop(keepsRetained) {
      up = false;
      if (!keepsRetained) retained.clear();
      for (const client of [...clients.values()]) {
        clients.delete(client.id);
        scheduler.after(latency(), client.owner, () => client.drop('the broker went away'));
      }
    },
    start() {
      up = true;
    },
    get up() {
      return up;
    },
    calm(on) {
      calm = on;
    },
    inject: (topic, payload, sender) => route(topic, payload, false, sender),
  };

  function openSimSession(owner: Owner, id: string, will: { readonly topic: string; readonly payload: Uint8Array }, handlers: SessionHandlers): Session {
    let phase: 'reaching' | 'up' | 'over' = 'reaching';
    const waiting = new Set<(published: Published) => void>();
    const over = (end: SessionEnd): void => {
      if (phase === 'over') return;
      phase = 'over';
      if (clients.get(id) === client) clients.delete(id);
      for (const lost of waiting) lost({ result: 'lost' });
      waiting.clear();
      handlers.ended(end);
    };
    const incoming = ({ topic, payload, retained: kept }: Delivery): Incoming => ({
      topic,
      payload,
      retained: kept,
      correlationData: null,
      responseTopic: null,
    });
    const client: Connected = {
      id,
      owner,
      filters: new Set(),
      deliver: (delivery) => {
        if (phase === 'up') handlers.message(incoming(delivery));
      },
      drop: (cause) => {
        if (owner.alive) over({ kind: 'lost', cause, code: null });
        route(will.topic, will.payload, true, id);
      },
      upMs: 0,
      downMs: 0,
    };
    const back = (run: () => void): void => {
      const atMs = Math.max(client.downMs, scheduler.nowMs() + latency());
      client.downMs = atMs;
      scheduler.after(atMs - scheduler.nowMs(), owner, run);
    };
    const session: Session = {
      protocol: 5,
      publish(topic, payload, how) {
        if (phase !== 'up') return Promise.resolve({ result: 'lost' });
        const bytes = typeof payload === 'string' ? Buffer.from(payload) : payload;
        if (!mayPublish(id, topic)) return Promise.resolve({ result: 'refused', code: 0x87 });
        return new Promise((resolve) => {
          if (how.qos === 1) waiting.add(resolve);
          arriving(client, () => {
            route(topic, bytes, how.retain, id);
            if (how.qos === 1)
              back(() => {
                if (waiting.delete(resolve)) resolve({ result: 'sent' });
              });
          });
          if (how.qos === 0) resolve({ result: 'sent' });
        });
      },
      subscribe: (requests) =>
        new Promise((resolve) => {
          arriving(client, () => {
            for (const { filter } of requests) client.filters.add(filter);
            back(() => {
              resolve([]);
              for (const [topic, { payload, sender }] of retained)
                if (sender !== id && requests.some(({ filter }) => matches(filter, topic))) toClient(client, { topic, payload, retained: true, sender }, true);
            });
          });
        }),
      end() {
        over({ kind: 'ended', cause: 'ended by the gate', code: null });
        return Promise.resolve();
      },
      abort: (cause) => over({ kind: 'lost', cause, code: null }),
    };
    scheduler.after(latency(), owner, () => {
      if (phase === 'over') return;
      if (!reachable(id)) return over({ kind: 'unreachable', cause: 'no route', code: null });
      phase = 'up';
      add(client);
      handlers.connected(session);
    });
    return session;
  }
}

/** Topics whose answer is kept, of each filter; then all are forgotten. */
const MAX_KEPT_TOPICS = 2_000;
const answers = new Map<string, Map<string, boolean>>();

/** MQTT's wildcard `+`; nobody here uses the other. */
export function matches(filter: string, topic: string): boolean {
  if (filter === topic) return true;
  const known = answers.get(filter) ?? new Map<string, boolean>();
  if (known.size === 0) answers.set(filter, known);
  const before = known.get(topic);
  if (before !== undefined) return before;
  const wanted = filter.split('/');
  const given = topic.split('/');
  const fits = wanted.length === given.length && wanted.every((word, n) => word === '+' || word === given[n]);
  if (known.size > MAX_KEPT_TOPICS) known.clear();
  known.set(topic, fits);
  return fits;
}
