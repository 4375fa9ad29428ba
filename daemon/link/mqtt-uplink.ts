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
import { createOutbox } from './ledger-sender.ts';
import { type Incoming, openSession, type ProtocolVersion, type Session, type SessionEnd, type TlsIdentity } from './mqtt-session.ts';
import { createPeerQueue } from './peer-queue.ts';
import { learnProtocol, linkFault, RECONNECT_FIRST_MS, RECONNECT_MAX_MS, STEADY_AFTER_MS, TAKEN_OVER_WAIT_MS, UNKNOWN_PROTOCOL } from './reconnect-policy.ts';
import { createRequestHandler } from './request-handler.ts';
import { createStatusPublisher } from './status-publisher.ts';
import { createTicketLookup } from './ticket-lookup.ts';
import { createTimeSync } from './time-sync.ts';

/** `close` waits so long for the broker to take the last state, and again so long for the end of the connection. */
export const CLOSE_BOUND_MS = 2_000;
/** After SUBACK, the ledger waits so long for the retained `ack` before it sends rows that may be acknowledged already. */
export const FIRST_ACK_WAIT_MS = 250;
/** No SUBACK within this time: the connection is dropped and made anew. */
export const SUBSCRIBE_TIMEOUT_MS = 10_000;
/** `askWant` waits so long for the retained message. */
export const WANT_WAIT_MS = 1_000;
const MAX_LOGGED_TOPIC = 200;
/** MQTT 5's reason code, which 3.1.1 has no word for. */
const NOT_AUTHORIZED = 0x87;

export interface UplinkOptions extends TlsIdentity {
  /** `<site>/<gate>`: client id and user name. */
  readonly gate: string;
  /** `mqtts://host:port` (with ca, cert, key) or `mqtt://host:port` (demo). */
  readonly url: string;
  /** Only where the broker asks for a name other than the gate's (a test). */
  readonly username?: string | undefined;
  readonly password?: string | undefined;
  readonly clock: Clock;
  readonly decider: Pick<Decider, 'nextBatch' | 'rememberTransaction'>;
  /** Published, retained, with every connection; `info()` replaces it. */
  readonly info: Omit<InfoMessage, 'schema'>;
  readonly log: Log;
  /** A lookup's answer that came after its budget: facts for the overlay. */
  readonly lateAnswer?: (answer: LookupAnswer) => void;
  /** More of the peers' rows came than could be applied, and some were dropped: fetch the site's ledger. */
  readonly peersDropped?: () => void;
  /** Shorter waits for tests; the defaults are the constants of outbox.ts, connection.ts and questions.ts. */
  readonly timing?: {
    readonly reconnectFirstMs?: number;
    readonly reconnectMaxMs?: number;
    readonly resendFirstMs?: number;
    readonly resendMaxMs?: number;
    readonly timePeriodMs?: number;
    readonly timeBurst?: number;
  };
  /** What a simulation puts in place of the network, the timers and Math.random. */
  readonly world?: { readonly openSession: typeof openSession; readonly timers: Timers; readonly random: () => number };
}

export interface MqttUplink extends Uplink {
  /** Asks the cloud about an unknown code. null: offline, no answer within `budgetMs`, or too many questions wait. Never rejects. */
  ask(refs: LookupQuestion['refs'], budgetMs: number): Promise<LookupAnswer | null>;
  /** Asks the broker for the retained `manifest/want` again. True: it came and was handed on. False: offline, none is retained, or not within WANT_WAIT_MS. Never rejects. */
  askWant(): Promise<boolean>;
  /** The protocol of the present connection; null: offline. */
  protocol(): ProtocolVersion | null;
  /** Batches sent and not yet acknowledged by the cloud. */
  inFlight(): number;
}

/** Nothing happens before `open`. */
export function createUplink(options: UplinkOptions): MqttUplink {
  const { gate, clock, log, timing = {} } = options;
  const { timers, random, openSession: connectTo } = options.world ?? { timers: systemTimers(), random: Math.random, openSession };
  const backoff = createBackoff({ firstMs: timing.reconnectFirstMs ?? RECONNECT_FIRST_MS, maxMs: timing.reconnectMaxMs ?? RECONNECT_MAX_MS, random });
  let listener: (event: UplinkEvent) => void | Promise<void> = () => {};
  let attempt: Session | null = null;
  /** The connection, from CONNACK on. `subscribed` is what `online` means; the ledger flows from its first ack or a short wait on. */
  let live: { readonly session: Session; readonly sinceMs: number; subscribed: boolean; ledger: boolean } | null = null;
  let known = UNKNOWN_PROTOCOL;
  let reconnectTimer: { cancel(): void } | undefined;
  let ledgerTimer: { cancel(): void } | undefined;
  let closing = false;
  let told: string | null = null;
  let shortLived = 0;
  /** Who waits for the retained want. */
  const wantReceived = new Set<(came: boolean) => void>();

  const publisher = createStatusPublisher({ gate, clock, info: options.info, log });
  const outbox = createOutbox({
    nextBatch: (after) => options.decider.nextBatch(after),
    nowMs: () => clock.boottimeMs(),
    refused: (code) => publisher.refused('ledger', code),
    failed: (error) => log.error('the ledger cannot be read for sending; it is tried again', { cause: error.message }),
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
  const question = (kind: 'time' | 'lookup', payload: string) => {
    void publisher.publish({ kind, gate }, payload);
  };
  const peers = createPeerQueue({ apply: (message) => listener({ kind: 'peer', ...message }), dropped: () => options.peersDropped?.(), log });
  const requests = createRequestHandler({
    gate,
    clock,
    log,
    remember: (transaction, untilMs) => options.decider.rememberTransaction(transaction, untilMs),
    deliver: (event) => {
      // It notes its own failure.
      void emit(event);
    },
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
        return requests.received(what.word, message);
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
          for (const heard of [...wantReceived]) heard(true);
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
    if (!ack.ok) return log.warn(`an ack cannot be read and releases nothing: ${ack.message}`);
    // The decider is told first, so that it never offers again what this ack has released.
    void Promise.resolve(emit({ kind: 'ack', ack: ack.value })).then(() => {
      outbox.acknowledged(ack.value);
      startLedger();
    });
  };
  const startLedger = () => {
    if (live === null || live.ledger) return;
    ledgerTimer?.cancel();
    live.ledger = true;
    outbox.start((payload) => publisher.publish({ kind: 'ledger', gate }, payload));
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
      // A key or certificate that cannot be read makes the library throw at once.
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
      told = null;
      log.info('connected to the broker', { protocol: session.protocol === 5 ? 'MQTT 5' : 'MQTT 3.1.1', session: id });
      // First who hears of it, so that an alert about the link itself is gone before alerts are published.
      void emit({ kind: 'online' });
      publisher.alerts();
      time.start(question);
      // The retained ack comes first, else rows would be sent that are acknowledged already.
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
    outbox.stop();
    time.stop();
    lookups.stop();
    if (closing) return;
    known = learnProtocol(known, protocol, end.kind);
    if (lasted >= STEADY_AFTER_MS) backoff.reset();
    shortLived = wasOnline && lasted < STEADY_AFTER_MS ? shortLived + 1 : lasted >= STEADY_AFTER_MS ? 0 : shortLived;
    const wait = end.kind === 'protocol' && backoff.failures() === 0 ? 0 : Math.max(backoff.next(), end.kind === 'taken_over' ? TAKEN_OVER_WAIT_MS : 0);
    reconnectTimer = timers.after(wait, connect);
    const fault = linkFault(options.url, end, shortLived);
    if (!wasOnline && (fault.cause === told || end.kind === 'protocol')) return;
    told = fault.cause;
    log.warn(`no connection to the broker: ${fault.cause}`, { hint: fault.hint, retry_ms: Math.round(wait) });
    void emit({ kind: 'offline', fault });
  };

  return {
    open(heard) {
      listener = heard;
      closing = false;
      connect();
    },
    async close(reason) {
      closing = true;
      reconnectTimer?.cancel();
      outbox.stop();
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
      if (live?.ledger) outbox.kick(again);
    },
    health: (body) => publisher.health(body),
    stats: (stats) => publisher.tell({ kind: 'stats', gate }, stats),
    info: (info) => publisher.info(info),
    event: (event) => publisher.tell({ kind: 'event', gate }, event),
    raise: (alert, severity, message) => publisher.raise(alert, severity, message),
    clear: (alert) => publisher.clear(alert),
    ask: (refs, budgetMs) => (live?.subscribed !== true ? Promise.resolve(null) : lookups.ask(refs, budgetMs, question)),
    async askWant() {
      if (live?.subscribed !== true) return false;
      const { session } = live;
      return new Promise<boolean>((resolve) => {
        const heard = (came: boolean) => {
          clearTimeout(none);
          wantReceived.delete(heard);
          resolve(came);
        };
        const none = setTimeout(() => heard(false), WANT_WAIT_MS);
        wantReceived.add(heard);
        // Subscribing again to the same topic makes a broker send what it retains.
        session.subscribe(subscriptionsOf(gate).filter(({ filter }) => parseTopic(filter)?.kind === 'want')).catch(() => heard(false));
      });
    },
    protocol: () => (live?.subscribed !== true ? null : live.session.protocol),
    inFlight: () => outbox.inFlight(),
  };
}
