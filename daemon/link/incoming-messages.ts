/** Lists a gate's subscriptions and classifies received messages. Pure. */
import { MAX_PAYLOAD_BYTES } from '../../contract/limits.ts';
import { gateSubscriptions, parseTopic, TOPIC_ROOT } from '../../contract/topics.ts';
import type { Incoming, SubscribeRequest } from './mqtt-session.ts';
import { commandOfTopic } from './request-validation.ts';

/** Returns the subscriptions of a gate: its inbox, and its own alerts, to find those that the broker retained. */
export function subscriptionsOf(gate: string): readonly SubscribeRequest[] {
  const inbox = gateSubscriptions(gate).map(
    (filter): SubscribeRequest => ({ filter, qos: filter.endsWith('/time/+') ? 0 : 1, noLocal: true, retainAsPublished: true }),
  );
  return [...inbox, { filter: `${TOPIC_ROOT}/${gate}/alert/+`, qos: 0, noLocal: true, retainAsPublished: false }];
}

export type Sorted =
  | { readonly kind: 'ack' | 'want' | 'overlay' }
  /** `ledger`: the owner by the topic, which the broker's ACL enforces. */
  | { readonly kind: 'peer'; readonly ledger: string }
  | { readonly kind: 'time_answer' | 'lookup_answer'; readonly n: number }
  /** `command`: the last part of the topic, known or not. */
  | { readonly kind: 'request'; readonly command: string }
  /** An alert of this gate that the broker retained. */
  | { readonly kind: 'own_alert'; readonly alert: string }
  /** `why`: text for the log; null: not logged. */
  | { readonly kind: 'ignored'; readonly why: string | null };

const NOTHING: Sorted = { kind: 'ignored', why: null };

/** Classifies any message. Ignores payloads above 256 KiB unread, except requests, which are answered. An empty payload clears a retained message. */
export function classifyMessage({ topic, payload, retained }: Pick<Incoming, 'topic' | 'payload' | 'retained'>, gate: string): Sorted {
  if (payload.byteLength === 0) return NOTHING;
  const command = commandOfTopic(topic, gate);
  if (command !== null) return { kind: 'request', command };
  const parsed = parseTopic(topic);
  if (parsed === null) return { kind: 'ignored', why: 'ignored a message on an unknown topic' };
  if (payload.byteLength > MAX_PAYLOAD_BYTES)
    return { kind: 'ignored', why: `ignored a message of ${payload.byteLength} bytes; the limit is ${MAX_PAYLOAD_BYTES}` };
  if (parsed.kind === 'ledger') {
    const sameSite = parsed.gate.slice(0, parsed.gate.indexOf('/')) === gate.slice(0, gate.indexOf('/'));
    return parsed.gate === gate || !sameSite ? NOTHING : { kind: 'peer', ledger: parsed.gate };
  }
  if (!('gate' in parsed) || parsed.gate !== gate) return NOTHING;
  switch (parsed.kind) {
    case 'alert':
      return retained ? { kind: 'own_alert', alert: parsed.alert } : NOTHING;
    case 'time_answer':
    case 'lookup_answer':
      return { kind: parsed.kind, n: parsed.n };
    case 'ack':
    case 'want':
    case 'overlay':
      return { kind: parsed.kind };
    default:
      return NOTHING;
  }
}
