/** What a gate subscribes to, and what a message that came is. Pure. */
import { MAX_PAYLOAD_BYTES } from '../../contract/limits.ts';
import { gateSubscriptions, parseTopic, TOPIC_ROOT } from '../../contract/topics.ts';
import type { Incoming, SubscribeRequest } from './mqtt-session.ts';
import { requestWord } from './request-validation.ts';

/** The gate's inbox, and its own alerts, to see which of them are retained from before. */
export function subscriptionsOf(gate: string): readonly SubscribeRequest[] {
  const inbox = gateSubscriptions(gate).map(
    (filter): SubscribeRequest => ({ filter, qos: filter.endsWith('/time/+') ? 0 : 1, noLocal: true, retainAsPublished: true }),
  );
  return [...inbox, { filter: `${TOPIC_ROOT}/${gate}/alert/+`, qos: 0, noLocal: true, retainAsPublished: false }];
}

export type Sorted =
  | { readonly kind: 'ack' | 'want' | 'overlay' }
  /** `ledger`: whose it is, by its topic, which the broker guards. */
  | { readonly kind: 'peer'; readonly ledger: string }
  | { readonly kind: 'time_answer' | 'lookup_answer'; readonly n: number }
  /** `word`: the command as the topic says it, known or not. */
  | { readonly kind: 'request'; readonly word: string }
  /** An alert of this gate that the broker has kept. */
  | { readonly kind: 'own_alert'; readonly alert: string }
  /** `why`: worth a line in the log; null: nothing to say. */
  | { readonly kind: 'ignored'; readonly why: string | null };

const NOTHING: Sorted = { kind: 'ignored', why: null };

/** Total. Payloads above 256 KiB are ignored unread, but for requests, which are answered. Empty ones clear a retained message and mean nothing else. */
export function classifyMessage({ topic, payload, retained }: Pick<Incoming, 'topic' | 'payload' | 'retained'>, gate: string): Sorted {
  if (payload.byteLength === 0) return NOTHING;
  const word = requestWord(topic, gate);
  if (word !== null) return { kind: 'request', word };
  const parsed = parseTopic(topic);
  if (parsed === null) return { kind: 'ignored', why: 'a message on a topic of no meaning was ignored' };
  if (payload.byteLength > MAX_PAYLOAD_BYTES)
    return { kind: 'ignored', why: `a message of ${payload.byteLength} bytes was refused unread; at most ${MAX_PAYLOAD_BYTES}` };
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
