/**
 * The gate's side of MQTT: keeps a connection, publishes present truth and the ledger, and hands on what the cloud and the
 * peers say after it was checked.
 *
 * Every connection starts clean, with no session at the broker: what the gate must know is retained (`ack`, `manifest/want`), what it
 * missed of its peers it fetches, and requests that could not be delivered are not wanted later. So a broker never holds a queue
 * for a gate, and a gate never holds one for a broker: unsent rows are in the ledger; alerts, state and info are kept as they
 * are now and published anew; the rest is dropped while there is no connection.
 */
import { randomUUID } from 'node:crypto';
import { AckMessage } from '../../contract/ledger.ts';
import { MAX_PAYLOAD_BYTES, SCHEMA_VERSION } from '../../contract/limits.ts';
import type { LookupAnswer, LookupQuestion } from '../../contract/manifest.ts';
import type { AlertId, AlertMessage, EventMessage, HealthMessage, InfoMessage, Severity, StateMessage, StatsMessage } from '../../contract/messages.ts';
import { parsePayload } from '../../contract/parse.ts';
import { DELIVERY, type Topic, topicOf } from '../../contract/topics.ts';
import type { Clock, Desk, Uplink, UplinkEvent } from '../ports.ts';
import { createBackoff } from './backoff.ts';
import { learnProtocol, linkFault, RECONNECT_FIRST_MS, RECONNECT_MAX_MS, STEADY_AFTER_MS, TAKEN_OVER_WAIT_MS, UNKNOWN_PROTOCOL } from './connection.ts';
import { inboxOf, sortIncoming } from './inbox.ts';
import type { LinkLog } from './log.ts';
import { createOutbox } from './outbox.ts';
import { createPeerQueue } from './peer-queue.ts';
import { createLookupAsker, createTimeAsker } from './questions.ts';
import { createRequestDesk } from './request-desk.ts';
import { type Incoming, openSession, type ProtocolVersion, type Published, type Session, type SessionEnd, type TlsIdentity } from './session.ts';

/** `close` waits so long for the broker to take the last state, and again so long for the end of the connection. */
export const CLOSE_BOUND_MS = 2_000;
/** After SUBACK, the ledger waits so long for the retained `ack` before it sends rows that may be acknowledged already. */
export const FIRST_ACK_WAIT_MS = 250;
/** No SUBACK within this time: the connection is dropped and made anew. */
export const SUBSCRIBE_TIMEOUT_MS = 10_000;
/** A health that is no older than this is published when a connection comes up; the next one is due then anyway. */
export const HEALTH_HOLDS_MS = 30_000;
const MAX_LOGGED_TOPIC = 200;

export interface UplinkOptions extends TlsIdentity {
  /** `<site>/<gate>`: client id and user name. */
  readonly gate: string;
  /** `mqtts://host:port` (with ca, cert, key) or `mqtt://host:port` (demo). */
  readonly url: string;
  /** Only where the broker asks for a name other than the gate's (a test). */
  readonly username?: string | undefined;
  readonly password?: string | undefined;
  readonly clock: Clock;
  readonly desk: Pick<Desk, 'nextBatch' | 'rememberTransaction'>;
  /** Published, retained, with every connection; `info()` replaces it. */
  readonly info: Omit<InfoMessage, 'schema'>;
  readonly log: LinkLog;
  /** A lookup's answer that came after its budget: facts for the overlay. */
  readonly lateAnswer?: (answer: LookupAnswer) => void;
  /** More of the peers' rows came than could be applied, and some were dropped: fetch the site's ledger. */
  readonly peersDropped?: () => void;
  /** The link came up: what was missed meanwhile can be fetched (manifest-sync.ts). */
  readonly connected?: () => void;
  /** Shorter waits for tests; the defaults are the constants of outbox.ts, connection.ts and questions.ts. */
  readonly timing?: {
    readonly reconnectFirstMs?: number;
    readonly reconnectMaxMs?: number;
    readonly resendFirstMs?: number;
    readonly resendMaxMs?: number;
    readonly timePeriodMs?: number;
  };
}

export interface MqttUplink extends Uplink {
  /** Asks the cloud about an unknown code. null: offline, no answer within `budgetMs`, or too many questions wait. Never rejects. */
  ask(refs: LookupQuestion['refs'], budgetMs: number): Promise<LookupAnswer | null>;
  /** The protocol of the present connection; null: offline. */
  protocol(): ProtocolVersion | null;
  /** Batches sent and not yet acknowledged by the cloud. */
  inFlight(): number;
}

/** Nothing happens before `open`. */
export function createUplink(options: UplinkOptions): MqttUplink {
  const { gate, clock, log, timing = {} } = options;
  const backoff = createBackoff({ firstMs: timing.reconnectFirstMs ?? RECONNECT_FIRST_MS, maxMs: timing.reconnectMaxMs ?? RECONNECT_MAX_MS });
  const alerts = new Map<string, Omit<AlertMessage, 'schema'>>();
  const refusedKinds = new Set<string>();
  let listener: (event: UplinkEvent) => void | Promise<void> = () => {};
  let info = options.info;
  let health: { readonly body: Omit<HealthMessage, 'schema'>; readonly atMs: number } | null = null;
  let attempt: Session | null = null;
  /** The connection, from CONNACK on. `subscribed` is what `online` means; the ledger flows from its first ack or a short wait on. */
  let live: { readonly session: Session; readonly id: string; readonly sinceMs: number; readonly since: string; subscribed: boolean; ledger: boolean } | null =
    null;
  let known = UNKNOWN_PROTOCOL;
  let reconnectTimer: NodeJS.Timeout | undefined;
  let ledgerTimer: NodeJS.Timeout | undefined;
  let closing = false;
  let told: string | null = null;
  let shortLived = 0;

  const now = () => new Date(clock.wallMs()).toISOString();
  const publish = (
    session: Session | undefined,
    topic: Topic,
    payload: string | Uint8Array,
    extra: { readonly topicText?: string; readonly correlationData?: Uint8Array | null } = {},
  ): Promise<Published> => {
    if (session === undefined) return Promise.resolve({ result: 'lost' });
    if (payload.length > MAX_PAYLOAD_BYTES) {
      log('error', `a ${topic.kind} of ${payload.length} bytes is too large to be sent`);
      return Promise.resolve({ result: 'dropped' });
    }
    const { qos, retain, expiry_s } = DELIVERY[topic.kind];
    const sent = session.publish(extra.topicText ?? topicOf(topic), payload, {
      qos,
      retain,
      expiryS: expiry_s,
      correlationData: extra.correlationData ?? null,
    });
    void sent.then((published) => {
      if (published.result === 'refused') refusedByBroker(topic.kind, published.code);
    });
    return sent;
  };
  const tell = (topic: Topic, payload: object) => publish(live?.session, topic, JSON.stringify({ schema: SCHEMA_VERSION, ...payload }));
  const stateOf = (state: StateMessage['state'], session: string, since: string, reason: string) =>
    JSON.stringify({ schema: SCHEMA_VERSION, state, session, since, reason } satisfies StateMessage);
  const refusedByBroker = (kind: string, code: number) => {
    if (refusedKinds.has(kind)) return;
    refusedKinds.add(kind);
    log('error', `the broker refuses this gate's ${kind} (reason code ${code}); check its ACL`);
    raise('uplink', 'critical', `The broker refuses this gate's ${kind} (reason code ${code}): its ACL does not name this gate, or a quota is full.`);
  };

  const outbox = createOutbox({
    nextBatch: (after) => options.desk.nextBatch(after),
    nowMs: () => clock.boottimeMs(),
    refused: (code) => refusedByBroker('ledger', code),
    failed: (error) => log('error', 'the ledger cannot be read for sending; it is tried again', { cause: error.message }),
    ...(timing.resendFirstMs === undefined ? {} : { resendFirstMs: timing.resendFirstMs }),
    ...(timing.resendMaxMs === undefined ? {} : { resendMaxMs: timing.resendMaxMs }),
  });
  const time = createTimeAsker({
    clock,
    log: (message) => log('warn', message),
    ...(timing.timePeriodMs === undefined ? {} : { periodMs: timing.timePeriodMs }),
  });
  const lookups = createLookupAsker({ late: (answer) => options.lateAnswer?.(answer), log: (message) => log('warn', message) });
  const question = (kind: 'time' | 'lookup', payload: string) => {
    void publish(live?.session, { kind, gate }, payload);
  };
  const peers = createPeerQueue({ apply: (payload) => listener({ kind: 'peer', payload }), dropped: () => options.peersDropped?.(), log });
  const requests = createRequestDesk({
    gate,
    clock,
    log,
    remember: (transaction, untilMs) => options.desk.rememberTransaction(transaction, untilMs),
    deliver: (event) => {
      emit(event);
    },
    answer: (topicText, payload, correlationData) => {
      void publish(live?.session, { kind: 'response', gate, command: 'open' }, payload, { topicText, correlationData });
    },
  });

  const emit = (event: UplinkEvent): void | Promise<void> => {
    const failed = (error: unknown) => log('error', `handling ${event.kind} failed`, { cause: error instanceof Error ? error.message : String(error) });
    try {
      const done = listener(event);
      return done instanceof Promise ? done.catch(failed) : undefined;
    } catch (error) {
      failed(error);
    }
  };

  const received = (message: Incoming) => {
    const { payload } = message;
    const what = sortIncoming(message, gate);
    switch (what.kind) {
      case 'request':
        return requests.received(what.word, message);
      case 'peer':
        return peers.push(payload);
      case 'ack':
        return acknowledged(payload);
      case 'time_answer':
        return time.answered(what.n, payload);
      case 'lookup_answer':
        return lookups.answered(what.n, payload);
      case 'want':
      case 'overlay':
        return void emit({ kind: what.kind, payload });
      // Retained from before: what is not raised any more is cleared.
      case 'own_alert':
        return alerts.has(what.alert) ? undefined : void publish(live?.session, { kind: 'alert', gate, alert: what.alert }, '');
      case 'ignored':
        return what.why === null ? undefined : log('warn', what.why, { topic: message.topic.slice(0, MAX_LOGGED_TOPIC) });
    }
  };
  const acknowledged = (payload: Uint8Array) => {
    const ack = parsePayload(AckMessage, payload);
    if (!ack.ok) return log('warn', `an ack cannot be read and releases nothing: ${ack.message}`);
    // The desk is told first, so that it never offers again what this ack has released.
    void Promise.resolve(emit({ kind: 'ack', ack: ack.value })).then(() => {
      outbox.acknowledged(ack.value);
      startLedger();
    });
  };
  const startLedger = () => {
    if (live === null || live.ledger) return;
    clearTimeout(ledgerTimer);
    live.ledger = true;
    const { session } = live;
    outbox.start((payload) => publish(session, { kind: 'ledger', gate }, payload));
  };

  const connect = () => {
    const id = randomUUID();
    const protocol = known.next;
    const will = { topic: topicOf({ kind: 'state', gate }), payload: Buffer.from(stateOf('offline', id, now(), 'connection lost')) };
    try {
      attempt = openSession(
        {
          url: options.url,
          protocol,
          clientId: gate,
          username: options.username ?? gate,
          password: options.password,
          ca: options.ca,
          cert: options.cert,
          key: options.key,
          will,
        },
        {
          connected: (session) => {
            void greet(session, id);
          },
          message: received,
          ended: (end) => ended(protocol, end),
        },
      );
    } catch (error) {
      // A key or certificate that cannot be read makes the library throw at once.
      ended(protocol, { kind: 'unreachable', cause: (error as Error).message, code: null });
    }
  };
  const greet = async (session: Session, id: string) => {
    const timeout = setTimeout(() => session.abort(`no answer to the subscriptions within ${SUBSCRIBE_TIMEOUT_MS} ms`), SUBSCRIBE_TIMEOUT_MS);
    try {
      const since = now();
      live = { session, id, sinceMs: clock.boottimeMs(), since, subscribed: false, ledger: false };
      const refused = await session.subscribe(inboxOf(gate));
      clearTimeout(timeout);
      if (live?.session !== session || closing) return;
      live.subscribed = true;
      // A refusal of the last connection is said again if it lasts.
      if (refusedKinds.size > 0) alerts.delete('uplink');
      refusedKinds.clear();
      for (const filter of refused) refusedByBroker(`subscription to ${filter}`, 0x87);
      void publish(session, { kind: 'state', gate }, stateOf('online', id, since, 'connected'));
      void tell({ kind: 'info', gate }, info);
      if (health !== null && clock.boottimeMs() - health.atMs <= HEALTH_HOLDS_MS) void tell({ kind: 'health', gate }, health.body);
      told = null;
      log('info', 'connected to the broker', { protocol: session.protocol === 5 ? 'MQTT 5' : 'MQTT 3.1.1', session: id });
      // First who hears of it, so that an alert about the link itself is gone before alerts are published.
      void emit({ kind: 'online' });
      for (const [alert, body] of alerts) void tell({ kind: 'alert', gate, alert }, body);
      options.connected?.();
      time.start(question);
      // The retained ack comes first, else rows would be sent that are acknowledged already.
      ledgerTimer = setTimeout(startLedger, FIRST_ACK_WAIT_MS);
    } catch (error) {
      clearTimeout(timeout);
      session.abort((error as Error).message);
    }
  };
  const ended = (protocol: ProtocolVersion, end: SessionEnd) => {
    const lasted = live === null ? 0 : clock.boottimeMs() - live.sinceMs;
    const wasOnline = live?.subscribed === true;
    live = null;
    attempt = null;
    clearTimeout(ledgerTimer);
    outbox.stop();
    time.stop();
    lookups.stop();
    if (closing) return;
    known = learnProtocol(known, protocol, end.kind);
    if (lasted >= STEADY_AFTER_MS) backoff.reset();
    shortLived = wasOnline && lasted < STEADY_AFTER_MS ? shortLived + 1 : lasted >= STEADY_AFTER_MS ? 0 : shortLived;
    const wait = end.kind === 'protocol' && backoff.failures() === 0 ? 0 : Math.max(backoff.next(), end.kind === 'taken_over' ? TAKEN_OVER_WAIT_MS : 0);
    reconnectTimer = setTimeout(connect, wait);
    const fault = linkFault(options.url, end, shortLived);
    if (!wasOnline && (fault.cause === told || end.kind === 'protocol')) return;
    told = fault.cause;
    log('warn', `no connection to the broker: ${fault.cause}`, { hint: fault.hint, retry_ms: Math.round(wait) });
    void emit({ kind: 'offline', fault });
  };

  const raise = (alert: AlertId, severity: Severity, message: string) => {
    const before = alerts.get(alert);
    if (before?.severity === severity && before.message === message) return;
    const body = { since: before?.since ?? now(), severity, message: message.slice(0, 512) };
    alerts.set(alert, body);
    void tell({ kind: 'alert', gate, alert }, body);
  };

  return {
    open(heard) {
      listener = heard;
      closing = false;
      connect();
    },
    async close(reason) {
      closing = true;
      clearTimeout(reconnectTimer);
      outbox.stop();
      time.stop();
      const session = attempt;
      if (live?.subscribed) {
        const last = publish(live.session, { kind: 'state', gate }, stateOf('offline', live.id, now(), reason));
        await Promise.race([
          last,
          new Promise((resolve) => {
            setTimeout(resolve, CLOSE_BOUND_MS).unref();
          }),
        ]);
      }
      await session?.end(CLOSE_BOUND_MS);
      requests.close();
    },
    online: () => live?.subscribed === true,
    kick: () => {
      if (live?.ledger) outbox.kick();
    },
    health(body) {
      health = { body, atMs: clock.boottimeMs() };
      void tell({ kind: 'health', gate }, body);
    },
    stats: (stats: Omit<StatsMessage, 'schema'>) => {
      void tell({ kind: 'stats', gate }, stats);
    },
    info(present) {
      info = present;
      void tell({ kind: 'info', gate }, info);
    },
    event: (event: Omit<EventMessage, 'schema'>) => {
      void tell({ kind: 'event', gate }, event);
    },
    raise,
    clear(alert) {
      if (alerts.delete(alert)) void publish(live?.session, { kind: 'alert', gate, alert }, '');
    },
    ask: (refs, budgetMs) => (live?.subscribed !== true ? Promise.resolve(null) : lookups.ask(refs, budgetMs, question)),
    protocol: () => (live?.subscribed !== true ? null : live.session.protocol),
    inFlight: () => outbox.inFlight(),
  };
}
