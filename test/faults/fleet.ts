/**
 * A fleet for the matrix of identities: gates at two sites, the cloud, and nobodies with certificates; what may be said and who may
 * hear it. Written down from CONTRACT.md once more, and not taken from the generator of the broker's ACL, which it judges.
 */
import type { IClientOptions } from 'mqtt';
import type { Identity, TestCa } from '../../deploy/mosquitto/test-ca.ts';
import type { Broker } from '../../testkit/broker.ts';

export const PROTOCOLS = [4, 5] as const;
export type Protocol = (typeof PROTOCOLS)[number];
export const CLOUD = '_cloud';

const FROM_GATE = [
  ...['state', 'info', 'health', 'stats', 'ledger', 'handback', 'event', 'lookup', 'time'],
  ...['alert/fire', 'alert/reader-in', 'response/open', 'response/mode'],
];
const TO_GATE = ['ack', 'manifest/want', 'overlay', 'request/open', 'request/mode', 'request/restart', 'lookup/7', 'time/7'];
const SITES = ['arena', 'stadium'];
/** No topics of ours, or of nobody who is here. */
const ELSEWHERE = [
  ...['stile/2/arena/g0/state', 'stile/1', 'elsewhere', '$SYS/broker/uptime'],
  ...['stile/1/arena/_all/state', 'stile/1/arena/g0/request', 'stile/1/arena/g0/ledger/x', 'stile/1/arena/g99/state'],
];

export interface Person {
  /** `<site>/<gate>`, `_cloud`, or what stands for nobody. */
  readonly name: string;
  readonly identity: Identity;
  readonly url: string;
}

/** Everything that can be said, and who says it. */
export interface Fleet {
  readonly gates: readonly string[];
  readonly topics: readonly string[];
  readonly filters: readonly string[];
  mayWrite(who: string, topic: string): boolean;
  mayRead(who: string, topic: string): boolean;
}

export function fleetOf(perSite: number): Fleet {
  const gates = SITES.flatMap((site) => Array.from({ length: perSite }, (_, index) => `${site}/g${index}`));
  const at = (gate: string, rest: string) => `stile/1/${gate}/${rest}`;
  const orders = (site: string) => [`stile/1/${site}/_all/request/open`, `stile/1/${site}/_all/request/mode`];
  const ofSites = SITES.flatMap((site) => [...orders(site), `stile/1/${site}/cloud/ledger`, `stile/1/${site}/cloud/ledger/phone-1`]);
  const host = 'stile/1/_cloud/host-1/state';
  const writes = new Map([
    ...gates.map((gate) => [gate, new Set(FROM_GATE.map((rest) => at(gate, rest)))] as const),
    [CLOUD, new Set([...gates.flatMap((gate) => TO_GATE.map((rest) => at(gate, rest))), ...ofSites, host])] as const,
  ]);
  const reads = new Map(
    gates.map((gate) => {
      const site = gate.split('/')[0] as string;
      const ledgers = [...gates.filter((other) => other.startsWith(`${site}/`)), `${site}/cloud`].map((other) => at(other, 'ledger'));
      return [
        gate,
        new Set(
          [...TO_GATE, 'alert/fire', 'alert/reader-in'].map((rest) => at(gate, rest)).concat(ledgers, `stile/1/${site}/cloud/ledger/phone-1`, orders(site)),
        ),
      ] as const;
    }),
  );
  const topics = [...gates.flatMap((gate) => [...FROM_GATE, ...TO_GATE].map((rest) => at(gate, rest))), ...ofSites, host, ...ELSEWHERE];
  const wide = ['#', '+/#', '+/+/+/+/+', 'stile/#', 'stile/1/#', 'stile/1/+/+/+', 'stile/1/+/+/+/+', ...SITES.map((site) => `stile/1/${site}/#`)];
  return {
    gates,
    topics,
    filters: [...wide, '$share/mine/#', '$share/mine/stile/1/+/+/ledger', ...topics],
    mayWrite: (who, topic) => writes.get(who)?.has(topic) === true,
    mayRead: (who, topic) => (who === CLOUD ? topic.startsWith('stile/1') : reads.get(who)?.has(topic) === true),
  };
}

export interface Matrix {
  readonly fleet: Fleet;
  readonly broker: Broker;
  readonly ca: TestCa;
  readonly people: readonly Person[];
  /** What was tried, by kind. */
  readonly attempts: Record<string, number>;
  /** What somebody got that is not his, in words. */
  readonly crossings: string[];
  /** What somebody may do and could not: then nothing is shown. */
  readonly broken: string[];
}

export const tried = (matrix: Matrix, kind: string, count = 1): void => {
  matrix.attempts[kind] = (matrix.attempts[kind] ?? 0) + count;
};

/** Connects as this person; a gate gives its own name, which the broker does not ask for. */
export const as = ({ ca }: Pick<Matrix, 'ca'>, { identity, name }: Person, protocol: Protocol, more: IClientOptions = {}): IClientOptions => ({
  ca: ca.ca,
  cert: identity.cert,
  key: identity.key,
  protocolVersion: protocol,
  connectTimeout: 5_000,
  ...(name === CLOUD ? {} : { clientId: name, username: name }),
  ...more,
});

export const cloudOf = ({ people }: Pick<Matrix, 'people'>): Person => people.find(({ name }) => name === CLOUD) as Person;
export const nth = (protocol: Protocol): string => (protocol === 5 ? 'MQTT 5' : 'MQTT 3.1.1');
