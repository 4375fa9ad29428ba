/** Builds and parses topics, here and nowhere else: `stile/1/<site>/<gate>/…`. */
import { CLOUD_GATE, GateId, LedgerGateId, SiteId } from './ids.ts';
import { SCHEMA_VERSION } from './limits.ts';
import { AlertId } from './messages.ts';
import { Command } from './requests.ts';

export const TOPIC_ROOT = `stile/${SCHEMA_VERSION}`;

/** The meaning of a topic. `gate` is `<site>/<gate>`; for a ledger of the cloud `<site>/cloud`, or `<site>/@<device>` on `…/cloud/ledger/<device>`. */
export type Topic =
  | { readonly kind: 'state' | 'info' | 'health' | 'stats' | 'event' | 'lookup' | 'time' | 'ack' | 'want' | 'overlay' | 'handback'; readonly gate: string }
  | { readonly kind: 'ledger'; readonly gate: string }
  | { readonly kind: 'alert'; readonly gate: string; readonly alert: string }
  | { readonly kind: 'response' | 'request'; readonly gate: string; readonly command: Command }
  | { readonly kind: 'lookup_answer' | 'time_answer'; readonly gate: string; readonly n: number }
  | { readonly kind: 'site_request'; readonly site: string; readonly command: Command }
  | { readonly kind: 'cloud_state'; readonly host: string };

const PLAIN = ['state', 'info', 'health', 'stats', 'event', 'ledger', 'ack', 'overlay', 'lookup', 'time', 'handback'] as const;
const HOST = /^[A-Za-z0-9][A-Za-z0-9.-]{0,63}$/;
const NUMBER = /^(0|[1-9][0-9]{0,14})$/;

/** Returns the topic's text. Inputs must have been checked (ids, commands). */
export function topicOf(topic: Topic): string {
  switch (topic.kind) {
    case 'ledger': {
      const at = topic.gate.indexOf('/@');
      return `${TOPIC_ROOT}/${at < 0 ? `${topic.gate}/ledger` : `${topic.gate.slice(0, at)}/${CLOUD_GATE}/ledger/${topic.gate.slice(at + 2)}`}`;
    }
    case 'alert':
      return `${TOPIC_ROOT}/${topic.gate}/alert/${topic.alert}`;
    case 'response':
    case 'request':
      return `${TOPIC_ROOT}/${topic.gate}/${topic.kind}/${topic.command}`;
    case 'lookup_answer':
      return `${TOPIC_ROOT}/${topic.gate}/lookup/${topic.n}`;
    case 'time_answer':
      return `${TOPIC_ROOT}/${topic.gate}/time/${topic.n}`;
    case 'want':
      return `${TOPIC_ROOT}/${topic.gate}/manifest/want`;
    case 'site_request':
      return `${TOPIC_ROOT}/${topic.site}/_all/request/${topic.command}`;
    case 'cloud_state':
      return `${TOPIC_ROOT}/_cloud/${topic.host}/state`;
    default:
      return `${TOPIC_ROOT}/${topic.gate}/${topic.kind}`;
  }
}

/** Parses a topic; returns null for a foreign one. Total. */
export function parseTopic(text: string): Topic | null {
  if (!text.startsWith(`${TOPIC_ROOT}/`)) return null;
  const parts = text.slice(TOPIC_ROOT.length + 1).split('/');
  const [site, id, part, last] = parts as [string, string?, string?, string?];
  if (site === '_cloud') return parts.length === 3 && HOST.test(id ?? '') && part === 'state' ? { kind: 'cloud_state', host: id as string } : null;
  if (id === undefined || part === undefined || parts.length > 4 || !SiteId.safeParse(site).success) return null;
  const command = last === undefined ? undefined : Command.safeParse(last).data;
  if (id === '_all') return part === 'request' && command !== undefined ? { kind: 'site_request', site, command } : null;
  const gate = `${site}/${id}`;
  if (part === 'ledger' && parts.length === 3) return LedgerGateId.safeParse(id).success ? { kind: 'ledger', gate } : null;
  if (part === 'ledger' && id === CLOUD_GATE) return GateId.safeParse(last).success ? { kind: 'ledger', gate: `${site}/@${last}` } : null;
  if (!GateId.safeParse(id).success) return null;
  if (parts.length === 3) {
    const plain = PLAIN.find((name) => name === part);
    return plain === undefined ? null : { kind: plain, gate };
  }
  if (part === 'manifest') return last === 'want' ? { kind: 'want', gate } : null;
  if (part === 'alert') return AlertId.safeParse(last).success ? { kind: 'alert', gate, alert: last as string } : null;
  if (part === 'request' || part === 'response') return command === undefined ? null : { kind: part, gate, command };
  if ((part === 'lookup' || part === 'time') && NUMBER.test(last ?? '')) return { kind: `${part}_answer`, gate, n: Number(last) };
  return null;
}

/** Returns the subscriptions of a gate: its own inbox, its site's requests and its site's ledgers (its own match the pattern too; it ignores those). */
export function gateSubscriptions(gate: string): readonly string[] {
  const site = gate.slice(0, gate.indexOf('/'));
  const own = `${TOPIC_ROOT}/${gate}`;
  return [
    `${own}/ack`,
    `${own}/manifest/want`,
    `${own}/overlay`,
    `${own}/request/+`,
    `${own}/lookup/+`,
    `${own}/time/+`,
    `${TOPIC_ROOT}/${site}/_all/request/+`,
    `${TOPIC_ROOT}/${site}/+/ledger`,
    `${TOPIC_ROOT}/${site}/${CLOUD_GATE}/ledger/+`,
  ];
}

/** Returns the subscriptions of the cloud's ingest. */
export const INGEST_SUBSCRIPTIONS: readonly string[] = [
  'ledger',
  'handback',
  'state',
  'info',
  'health',
  'stats',
  'alert/+',
  'response/+',
  'lookup',
  'time',
].map((rest) => `${TOPIC_ROOT}/+/+/${rest}`);

/** Delivery of each kind: QoS, retained, and message expiry in seconds under MQTT 5 (undefined: none). */
export const DELIVERY: Readonly<Record<Topic['kind'], { readonly qos: 0 | 1; readonly retain: boolean; readonly expiry_s?: number }>> = {
  state: { qos: 1, retain: true },
  info: { qos: 1, retain: true },
  health: { qos: 0, retain: true, expiry_s: 180 },
  stats: { qos: 0, retain: false, expiry_s: 3600 },
  ledger: { qos: 1, retain: false },
  event: { qos: 1, retain: false, expiry_s: 86_400 },
  alert: { qos: 1, retain: true },
  response: { qos: 1, retain: false, expiry_s: 300 },
  handback: { qos: 1, retain: false },
  ack: { qos: 1, retain: true },
  want: { qos: 1, retain: true },
  overlay: { qos: 1, retain: false },
  request: { qos: 1, retain: false, expiry_s: 30 },
  site_request: { qos: 1, retain: false, expiry_s: 30 },
  lookup: { qos: 1, retain: false, expiry_s: 2 },
  lookup_answer: { qos: 1, retain: false, expiry_s: 2 },
  time: { qos: 0, retain: false, expiry_s: 10 },
  time_answer: { qos: 0, retain: false, expiry_s: 10 },
  cloud_state: { qos: 1, retain: true },
};
