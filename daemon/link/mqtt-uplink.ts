/**
 * Connects the gate to MQTT: keeps a connection, publishes status and ledger, checks received messages and passes them on.
 *
 * Every connection starts clean, with no session at the broker: the broker retains `ack` and `manifest/want`, the gate fetches
 * missed peers' rows, and undelivered requests expire. So a broker never queues for a gate, and a gate never for a broker: unsent
 * rows are in the ledger; the present alerts, state and info are published again on connect; other messages are dropped offline.
 */
import { randomUUID } from 'node:crypto';
import { AckMessage } from '../../contract/ledger.ts';
import type { LookupAnswer, LookupQuestion } from '../../contract/manifest.ts';
import type { InfoMessage } from '../../contract/messages.ts';
import { parsePayload } from '../../contract/parse.ts';
import { cutText } from '../../contract/text.ts';
import { parseTopic } from '../../contract/topics.ts';
import { errorText } from '../../runtime/error-text.ts';
import { withTimeout } from '../../runtime/timeout.ts';
import type { Log } from '../log/log.ts';
import type { Clock, Decider, Uplink, UplinkEvent } from '../ports.ts';
import { systemTimers, type Timers } from '../timers.ts';
import { createBackoff } from './backoff.ts';
import { classifyMessage, subscriptionsOf } from './incoming-messages.ts';
import { createLedgerSender } from './ledger-sender.ts';
import { type Incoming, openSession, type ProtocolVersion, type Session, type SessionEnd, type TlsIdentity } from './mqtt-session.ts';
import { createPeerQueue } from './peer-queue.ts';
import { learnProtocol, linkFault, RECONNECT_FIRST_MS, RECONNECT_MAX_MS, STEADY_AFTER_MS, TAKEN_OVER_WAIT_MS, UNKNOWN_PROTOCOL } from './reconnect-policy.ts';
import { createRequestHandler } from './request-handler.ts';
import { createStatusPublisher } from './status-publisher.ts';
import { createTicketLookup } from './ticket-lookup.ts';
import { createTimeSync } from './time-sync.ts';

/** Longest wait of `close`, in ms: once for the broker to take the last state, once for the end of the connection. */
export const CLOSE_BOUND_MS = 2_000;
/** Wait for the retained `ack` after SUBACK, in ms; then the ledger is sent without it. */
export const FIRST_ACK_WAIT_MS = 250;
/** Longest wait for SUBACK, in ms; then the gate reconnects. */
export const SUBSCRIBE_TIMEOUT_MS = 10_000;
/** Longest wait of `requestWant` for the retained message, in ms; then it returns false. */
export const WANT_WAIT_MS = 1_000;
const MAX_LOGGED_TOPIC = 200;
/** MQTT 5 reason code; 3.1.1 has none. */
const NOT_AUTHORIZED = 0x87;

export interface UplinkOptions extends TlsIdentity {
  /** `<site>/<gate>`: client id and user name. */
  readonly gate: string;
  /** `mqtts://host:port` (with ca, cert, key) or `mqtt://host:port` (demo). */
  readonly url: string;
  /** User name at the broker; default: the gate's name. */
  readonly username?: string | undefined;
  readonly password?: string | undefined;
  readonly clock: Clock;
  readonly decider: Pick<Decider, 'nextBatch' | 'question' | 'rememberTransaction'>;
  /** Published, retained, on every connect; `info()` replaces it. */
  readonly info: Omit<InfoMessage, 'schema'>;
  readonly log: Log;
  /** Receives a lookup's answer that arrived after its budget. */
  readonly lateAnswer?: (answer: LookupAnswer) => void;
  /** Runs when peers' rows were dropped: the site's ledger must be fetched. */
  readonly peersDropped?: () => void;
  /** Shorter waits for tests; the defaults are the constants of ledger-sender.ts, reconnect-policy.ts and time-sync.ts. */
  readonly timing?: {
    readonly reconnectFirstMs?: number;
    readonly reconnectMaxMs?: number;
    readonly resendFirstMs?: number;
    readonly resendMaxMs?: number;
    readonly timePeriodMs?: number;
    readonly timeBurst?: number;
  };
  /** Replaces network, timers and Math.random in the simulation. */
  readonly world?: { readonly openSession: typeof openSession; readonly timers: Timers; readonly random: () => number };
}

export interface MqttUplink extends Uplink {
  /** Asks the cloud about an unknown code. Returns null offline, without an answer within `budgetMs`, or with too many lookups in flight. Never rejects. */
  ask(refs: LookupQuestion['refs'], budgetMs: number): Promise<LookupAnswer | null>;
  /**
   * Requests the retained `manifest/want` from the broker. Returns true when it arrived and was handled; false offline, without one, or after WANT_WAIT_MS.
   * Never rejects.
   */
  requestWant(): Promise<boolean>;
  /** Returns the protocol of the connection; null: offline. */
  protocol(): ProtocolVersion | null;
  /** Returns the number of batches that the cloud has not acknowledged. */
  inFlight(): number;
}

/** Creates an uplink; it starts with `open`. */
export function createUplink(options: UplinkOptions): MqttUplink {
  const { gate, clock, log, timing = {} } = options;
  const { timers, random, openSession: connectTo } = options.world ?? { timers: systemTimers(), random: Math.random, openSession };
  const backoff = createBackoff({ firstMs: timing.reconnectFirstMs ?? RECONNECT_FIRST_MS, maxMs: timing.reconnectMaxMs ?? RECONNECT_MAX_MS, random });
  let listener: (event: UplinkEvent) => void | Promise<void> = () => {};
  let attempt: Session | null = null;
  /** The connection, from CONNACK on. `subscribed`: online. `ledger`: the sender runs, from the first ack or FIRST_ACK_WAIT_MS on. */
  let live: { readonly session: Session; readonly sinceMs: number; subscribed: boolean; ledger: boolean } | null = null;
  let known = UNKNOWN_PROTOCOL;
  let reconnectTimer: { cancel(): void } | undefined;
  let ledgerTimer: { cancel(): void } | undefined;
  let closing = false;
  let loggedCause: string | null = null;
  let shortLived = 0;
  /** Callers of `requestWant`. */
  const wantWaiters = new Set<(came: boolean) => void>();

  const publisher = createStatusPublisher({ gate, clock, info: options.info, log });
  const sender = createLedgerSender({
    nextBatch: (after) => options.decider.nextBatch(after),
    question: async () => (await options.decider.question?.()) ?? null,
    nowMs: () => clock.boottimeMs(),
    refused: (code) => publisher.refused('ledger', code),
    failed: (error) => log.error('reading the ledger for sending failed; the gate retries', { cause: error.message }),
    timers,
    random,
    ...(timing.resendFirstMs === undefined ? {} : { resendFirstMs: timing.resendFirstMs }),
    ...(timing.resendMaxMs === undefined ? {} : { resendMaxMs: timing.resendMaxMs }),
  });
  const time = createTimeSync({
    clock,
    log: (message) => log.warn(message),
    timers,
    random,
    ...(timing.timePeriodMs === undefined ? {} : { periodMs: timing.timePeriodMs }),
    ...(timing.timeBurst === undefined ? {} : { burst: timing.timeBurst }),
  });
  const lookups = createTicketLookup({ late: (answer) => options.lateAnswer?.(answer), log: (message) => log.warn(message) });
  const publishQuery = (kind: 'time' | 'lookup', payload: string) => {
    void publisher.publish({ kind, gate }, payload);
  };
  const peers = createPeerQueue({ apply: (message) => listener({ kind: 'peer', ...message }), dropped: () => options.peersDropped?.(), log });
  const requests = createRequestHandler({
    gate,
    clock,
    log,
    remember: (transaction, untilMs) => options.decider.rememberTransaction(transaction, untilMs),
    deliver: (event) => {
      // `emit` logs its own failure.
      void emit(event);
    },
    nonce: publisher.nonce,
    renewNonce: publisher.renewNonce,
    answer: (topicText, payload, correlationData) => {
      void publisher.publish({ kind: 'response', gate, command: 'open' }, payload, { topicText, correlationData });
    },
  });

  const emit = (event: UplinkEvent): void | Promise<void> => {
    const failed = (error: unknown) => log.error(`handling ${event.kind} failed`, { cause: errorText(error) });
    try {
      const done = listener(event);
      return done instanceof Promise ? done.catch(failed) : undefined;
    } catch (error) {
      failed(error);
    }
  };

  const received = (message: Incoming) => {
    const { payload } = message;
    const what = classifyMessage(message, gate);
    switch (what.kind) {
      case 'request':
        return requests.received(what.command, message);
      case 'peer':
        return peers.push({ ledger: what.ledger, payload });
      case 'ack':
        return acknowledged(payload);
      case 'time_answer':
        return time.answered(what.n, payload);
      case 'lookup_answer':
        return lookups.answered(what.n, payload);
      case 'want':
        return void Promise.resolve(emit({ kind: 'want', payload })).then(() => {
          for (const settle of [...wantWaiters]) settle(true);
        });
      case 'overlay':
        return void emit({ kind: 'overlay', payload });
      case 'own_alert':
        return publisher.kept(what.alert);
      case 'ignored':
        return what.why === null ? undefined : log.warn(what.why, { topic: cutText(message.topic, MAX_LOGGED_TOPIC) });
    }
  };
  const acknowledged = (payload: Uint8Array) => {
    const ack = parsePayload(AckMessage, payload);
    if (!ack.ok) return log.warn(`reading an ack failed: ${ack.message}; it releases nothing`);
    // The decider applies the ack first, so that it does not return released rows again.
    void Promise.resolve(emit({ kind: 'ack', ack: ack.value })).then(() => {
      sender.acknowledged(ack.value);
      startLedger();
    });
  };
  const startLedger = () => {
    if (live === null || live.ledger) return;
    ledgerTimer?.cancel();
    live.ledger = true;
    sender.start((payload) => publisher.publish({ kind: 'ledger', gate }, payload));
  };

  const connect = () => {
    const id = randomUUID();
    const protocol = known.next;
    try {
      attempt = connectTo(
        {
          url: options.url,
          protocol,
          clientId: gate,
          username: options.username ?? gate,
          password: options.password,
          ca: options.ca,
          cert: options.cert,
          key: options.key,
          will: publisher.will(id),
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
      // The library throws on a malformed key or certificate.
      ended(protocol, { kind: 'unreachable', cause: (error as Error).message, code: null });
    }
  };
  const greet = async (session: Session, id: string) => {
    const timeout = timers.after(SUBSCRIBE_TIMEOUT_MS, () => session.abort(`no answer to the subscriptions within ${SUBSCRIBE_TIMEOUT_MS} ms`));
    try {
      live = { session, sinceMs: clock.boottimeMs(), subscribed: false, ledger: false };
      publisher.attach(session, id);
      const refused = await session.subscribe(subscriptionsOf(gate));
      timeout.cancel();
      if (live?.session !== session || closing) return;
      live.subscribed = true;
      for (const filter of refused) publisher.refused(`subscription to ${filter}`, NOT_AUTHORIZED);
      publisher.arrive();
      loggedCause = null;
      log.info('connected to the broker', { protocol: session.protocol === 5 ? 'MQTT 5' : 'MQTT 3.1.1', session: id });
      // The listener comes first: it clears alerts about the link before alerts are published.
      void emit({ kind: 'online' });
      publisher.alerts();
      time.start(publishQuery);
      // Waits for the retained ack, so that acknowledged rows are not sent again.
      ledgerTimer = timers.after(FIRST_ACK_WAIT_MS, startLedger);
    } catch (error) {
      timeout.cancel();
      session.abort((error as Error).message);
    }
  };
  const ended = (protocol: ProtocolVersion, end: SessionEnd) => {
    const lasted = live === null ? 0 : clock.boottimeMs() - live.sinceMs;
    const wasOnline = live?.subscribed === true;
    live = null;
    attempt = null;
    publisher.detach();
    ledgerTimer?.cancel();
    sender.stop();
    time.stop();
    lookups.stop();
    if (closing) return;
    known = learnProtocol(known, protocol, end.kind);
    if (lasted >= STEADY_AFTER_MS) backoff.reset();
    shortLived = wasOnline && lasted < STEADY_AFTER_MS ? shortLived + 1 : lasted >= STEADY_AFTER_MS ? 0 : shortLived;
    const wait = end.kind === 'protocol' && backoff.failures() === 0 ? 0 : Math.max(backoff.next(), end.kind === 'taken_over' ? TAKEN_OVER_WAIT_MS : 0);
    reconnectTimer = timers.after(wait, connect);
    const fault = linkFault(options.url, end, shortLived);
    if (!wasOnline && (fault.cause === loggedCause || end.kind === 'protocol')) return;
    loggedCause = fault.cause;
    log.warn(`connecting to the broker failed: ${fault.cause}`, { hint: fault.hint, retry_ms: Math.round(wait) });
    void emit({ kind: 'offline', fault });
  };

  return {
    open(receive) {
      listener = receive;
      closing = false;
      connect();
    },
    async close(reason) {
      closing = true;
      reconnectTimer?.cancel();
      sender.stop();
      time.stop();
      const session = attempt;
      if (live?.subscribed) {
        await withTimeout(publisher.leave(reason), CLOSE_BOUND_MS, null);
      }
      await session?.end(CLOSE_BOUND_MS);
      requests.close();
    },
    online: () => live?.subscribed === true,
    kick: (again) => {
      if (live?.ledger) sender.kick(again);
    },
    health: (body) => publisher.health(body),
    stats: (stats) => publisher.publishMessage({ kind: 'stats', gate }, stats),
    info: (info) => publisher.info(info),
    event: (event) => publisher.publishMessage({ kind: 'event', gate }, event),
    raise: (alert, severity, message) => publisher.raise(alert, severity, message),
    clear: (alert) => publisher.clear(alert),
    ask: (refs, budgetMs) => (live?.subscribed !== true ? Promise.resolve(null) : lookups.ask(refs, budgetMs, publishQuery)),
    async requestWant() {
      if (live?.subscribed !== true) return false;
      const { session } = live;
      return new Promise<boolean>((resolve) => {
        const settle = (received: boolean) => {
          clearTimeout(none);
          wantWaiters.delete(settle);
          resolve(received);
        };
        const none = setTimeout(() => settle(false), WANT_WAIT_MS);
        wantWaiters.add(settle);
        // A broker sends the retained message on every subscribe.
        session.subscribe(subscriptionsOf(gate).filter(({ filter }) => parseTopic(filter)?.kind === 'want')).catch(() => settle(false));
      });
    },
    protocol: () => (live?.subscribed !== true ? null : live.session.protocol),
    inFlight: () => sender.inFlight(),
  };
}
