/**
 * Publishes the gate's status: state, info, health, alerts. Keeps the present values, publishes them again on every connect, and
 * queues nothing. All messages are published here, so that a broker's refusal is logged once.
 */
import { randomUUID } from 'node:crypto';
import { MAX_PAYLOAD_BYTES, MAX_TEXT_CHARS, SCHEMA_VERSION } from '../../contract/limits.ts';
import type { AlertId, AlertMessage, HealthMessage, InfoMessage, Severity, StateMessage } from '../../contract/messages.ts';
import { cutText } from '../../contract/text.ts';
import { DELIVERY, type Topic, topicOf } from '../../contract/topics.ts';
import type { Log } from '../log/log.ts';
import type { Clock } from '../ports.ts';
import type { Published, Session } from './mqtt-session.ts';

/** Oldest health, in ms, that is published again on connect; an older one is skipped, since the next is due. */
export const HEALTH_HOLDS_MS = 30_000;

export interface StatusPublisher {
  /** Returns the will, which the broker publishes when the connection is lost. */
  will(sessionId: string): { readonly topic: string; readonly payload: Uint8Array };
  /** Publishes on this connection from now on. */
  attach(session: Session, sessionId: string): void;
  detach(): void;
  /** Publishes online, info and health, once the inbox is subscribed. */
  arrive(): void;
  /** Publishes the active alerts. */
  alerts(): void;
  /** Publishes offline with the reason. Resolves when the broker has acknowledged it, or cannot. */
  leave(reason: string): Promise<Published>;
  publish(
    topic: Topic,
    payload: string | Uint8Array,
    extra?: { readonly topicText?: string; readonly correlationData?: Uint8Array | null },
  ): Promise<Published>;
  /** Publishes a message with its `schema`. */
  publishMessage(topic: Topic, payload: object): void;
  raise(alert: AlertId, severity: Severity, message: string): void;
  clear(alert: AlertId): void;
  /** Clears an alert that the broker retained and that is no longer active. */
  kept(alert: string): void;
  info(info: Omit<InfoMessage, 'schema'>): void;
  health(health: Omit<HealthMessage, 'schema'>): void;
  /** Returns the nonce of the published state; null: not connected. */
  nonce(): string | null;
  /** Replaces the nonce and publishes the state again. */
  renewNonce(): void;
  /** Logs a refusal of the broker and raises the alert `uplink`, once per kind and connection. */
  refused(kind: string, code: number): void;
}

export function createStatusPublisher(options: {
  readonly gate: string;
  readonly clock: Clock;
  readonly info: Omit<InfoMessage, 'schema'>;
  readonly log: Log;
}): StatusPublisher {
  const { gate, clock, log } = options;
  const alerts = new Map<string, Omit<AlertMessage, 'schema'>>();
  const refusedKinds = new Set<string>();
  let info = options.info;
  let health: { readonly body: Omit<HealthMessage, 'schema'>; readonly atMs: number } | null = null;
  let live: { readonly session: Session; readonly id: string; readonly since: string; readonly nonce: string } | null = null;

  const now = () => new Date(clock.wallMs()).toISOString();
  const stateText = (state: StateMessage['state'], session: string, since: string, reason: string) =>
    JSON.stringify({ schema: SCHEMA_VERSION, state, session, since, reason: cutText(reason, MAX_TEXT_CHARS) } satisfies StateMessage);
  const onlineText = ({ id, since, nonce }: { readonly id: string; readonly since: string; readonly nonce: string }) => {
    const body = JSON.parse(stateText('online', id, since, 'connected')) as StateMessage;
    return JSON.stringify({ ...body, nonce } satisfies StateMessage);
  };
  const publish: StatusPublisher['publish'] = (topic, payload, extra = {}) => {
    if (live === null) return Promise.resolve({ result: 'lost' });
    if (Buffer.byteLength(payload) > MAX_PAYLOAD_BYTES) {
      log.error(`publishing ${topic.kind} failed: it is too large`, { size_bytes: Buffer.byteLength(payload) });
      return Promise.resolve({ result: 'dropped' });
    }
    const { qos, retain, expiry_s } = DELIVERY[topic.kind];
    const sent = live.session.publish(extra.topicText ?? topicOf(topic), payload, {
      qos,
      retain,
      expiryS: expiry_s,
      correlationData: extra.correlationData ?? null,
    });
    void sent.then((published) => {
      if (published.result === 'refused') refused(topic.kind, published.code);
    });
    return sent;
  };
  const publishMessage = (topic: Topic, payload: object) => void publish(topic, JSON.stringify({ schema: SCHEMA_VERSION, ...payload }));
  const clearRetained = (alert: string) => void publish({ kind: 'alert', gate, alert }, '');
  const refused = (kind: string, code: number) => {
    if (refusedKinds.has(kind)) return;
    refusedKinds.add(kind);
    log.error(`publishing ${kind} failed: the broker refused it (reason code ${code}); check its ACL`);
    raise('uplink', 'critical', `The broker refuses this gate's ${kind} (reason code ${code}): its ACL does not name this gate, or a quota is full.`);
  };
  const raise: StatusPublisher['raise'] = (alert, severity, text) => {
    const message = cutText(text, MAX_TEXT_CHARS);
    const before = alerts.get(alert);
    if (before?.severity === severity && before.message === message) return;
    const body = { since: before?.since ?? now(), severity, message };
    alerts.set(alert, body);
    publishMessage({ kind: 'alert', gate, alert }, body);
  };

  return {
    will: (id) => ({ topic: topicOf({ kind: 'state', gate }), payload: Buffer.from(stateText('offline', id, now(), 'connection lost')) }),
    attach(session, id) {
      live = { session, id, since: now(), nonce: randomUUID() };
      // A refusal on the last connection is reported again if it recurs.
      if (refusedKinds.size > 0) alerts.delete('uplink');
      refusedKinds.clear();
    },
    detach() {
      live = null;
    },
    arrive() {
      if (live === null) return;
      void publish({ kind: 'state', gate }, onlineText(live));
      publishMessage({ kind: 'info', gate }, info);
      if (health !== null && clock.boottimeMs() - health.atMs <= HEALTH_HOLDS_MS) publishMessage({ kind: 'health', gate }, health.body);
    },
    alerts() {
      for (const [alert, body] of alerts) publishMessage({ kind: 'alert', gate, alert }, body);
    },
    leave: (reason) => (live === null ? Promise.resolve({ result: 'lost' }) : publish({ kind: 'state', gate }, stateText('offline', live.id, now(), reason))),
    nonce: () => live?.nonce ?? null,
    renewNonce() {
      if (live === null) return;
      live = { ...live, nonce: randomUUID() };
      void publish({ kind: 'state', gate }, onlineText(live));
    },
    publish,
    publishMessage,
    raise,
    clear(alert) {
      if (alerts.delete(alert)) clearRetained(alert);
    },
    kept(alert) {
      if (!alerts.has(alert)) clearRetained(alert);
    },
    info(present) {
      info = present;
      publishMessage({ kind: 'info', gate }, info);
    },
    health(body) {
      health = { body, atMs: clock.boottimeMs() };
      publishMessage({ kind: 'health', gate }, body);
    },
    refused,
  };
}
