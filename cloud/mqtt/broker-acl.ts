/**
 * The broker's ACL file, generated from enrolment: one block per gate, no patterns (Mosquitto 2.1 denies a `%u` that holds a
 * slash, and no pattern can say "the ledgers of my own site"). Pure: the same gates give the same text.
 */
import { GateName, splitGateName } from '../../contract/ids.ts';
import { INGEST_SUBSCRIPTIONS, TOPIC_ROOT, topicOf } from '../../contract/topics.ts';

/** The user name of the cloud's serving programs: the common name of their certificate. No gate can have it. */
export const CLOUD_IDENTITY = '_cloud';
/** The user name of programs that only ingest (`stile-cloud ingest`): it commands no gate, neither by name nor by `_all`, and publishes no `want`. */
export const INGEST_IDENTITY = '_ingest';

export interface AclGate {
  /** `<site>/<gate>`, as enrolled. */
  readonly gate: string;
  /** A revoked gate keeps a line that names it, without any right. */
  readonly revoked: boolean;
}

/** Returns the topics that a gate publishes: its own. */
export function gateWrites(gate: string): readonly string[] {
  const plain = (['state', 'info', 'health', 'stats', 'ledger', 'handback', 'event', 'lookup', 'time'] as const).map((kind) => topicOf({ kind, gate }));
  return [...plain, `${TOPIC_ROOT}/${gate}/alert/+`, `${TOPIC_ROOT}/${gate}/response/+`];
}

/**
 * Returns the topics that a gate subscribes to: its own inbox, requests to its whole site, its site's ledgers; its own alerts, to clear those of
 * yesterday.
 */
export function gateReads(gate: string): readonly string[] {
  const { site } = splitGateName(gate);
  const own = `${TOPIC_ROOT}/${gate}`;
  return [
    `${own}/ack`,
    `${own}/manifest/want`,
    `${own}/overlay`,
    `${own}/request/+`,
    `${own}/lookup/+`,
    `${own}/time/+`,
    `${own}/alert/+`,
    `${TOPIC_ROOT}/${site}/_all/request/+`,
    `${TOPIC_ROOT}/${site}/+/ledger`,
    `${TOPIC_ROOT}/${site}/cloud/ledger/+`,
  ];
}

/** Lists the topics that the cloud publishes. It reads everything below the topic root, by shared subscription as well. */
export const CLOUD_WRITES: readonly string[] = [
  `${TOPIC_ROOT}/+/+/ack`,
  `${TOPIC_ROOT}/+/+/manifest/want`,
  `${TOPIC_ROOT}/+/+/overlay`,
  `${TOPIC_ROOT}/+/+/request/+`,
  `${TOPIC_ROOT}/+/+/lookup/+`,
  `${TOPIC_ROOT}/+/+/time/+`,
  `${TOPIC_ROOT}/+/cloud/ledger`,
  `${TOPIC_ROOT}/+/cloud/ledger/+`,
  `${TOPIC_ROOT}/_cloud/+/state`,
];

/** Lists the topics that an ingester publishes: answers to gates, and the cloud's own rows. It reads the gates' topics, and no commands. */
export const INGEST_WRITES: readonly string[] = [
  `${TOPIC_ROOT}/+/+/ack`,
  `${TOPIC_ROOT}/+/+/lookup/+`,
  `${TOPIC_ROOT}/+/+/time/+`,
  `${TOPIC_ROOT}/+/cloud/ledger`,
  `${TOPIC_ROOT}/+/cloud/ledger/+`,
  `${TOPIC_ROOT}/_cloud/+/state`,
];

/** Lists the topics that an ingester reads: the gates' own, and what was acknowledged before. */
export const INGEST_READS: readonly string[] = [...INGEST_SUBSCRIPTIONS, `${TOPIC_ROOT}/+/+/ack`];

/**
 * Returns the whole file. Gates are sorted and each is named once (revoked wins over not revoked). Throws a TypeError for an invalid name of a
 * gate: one with a line break or a wildcard could add rules of its own.
 */
export function aclFile(gates: readonly AclGate[]): string {
  const revoked = new Map<string, boolean>();
  for (const { gate, revoked: isRevoked } of gates) {
    if (!GateName.safeParse(gate).success) throw new TypeError(`not the name of a gate, so it cannot stand in an ACL: ${JSON.stringify(gate)}`);
    revoked.set(gate, isRevoked || revoked.get(gate) === true);
  }
  const blocks = [...revoked]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([gate, isRevoked]) => (isRevoked ? `# ${gate} is revoked` : block(gate, gateWrites(gate), gateReads(gate))));
  return [
    '# Generated from enrolment: changes by hand are overwritten. One block per gate; what is not named is denied.',
    block(CLOUD_IDENTITY, CLOUD_WRITES, [`${TOPIC_ROOT}/#`]),
    block(INGEST_IDENTITY, INGEST_WRITES, INGEST_READS),
    ...blocks,
    '',
  ].join('\n\n');
}

function block(user: string, writes: readonly string[], reads: readonly string[]): string {
  const both = writes.filter((topic) => reads.includes(topic));
  const lines = (access: string, topics: readonly string[]) => topics.map((topic) => `topic ${access} ${topic}`);
  return [
    `user ${user}`,
    ...lines('readwrite', both),
    ...lines(
      'write',
      writes.filter((topic) => !both.includes(topic)),
    ),
    ...lines(
      'read',
      reads.filter((topic) => !both.includes(topic)),
    ),
  ].join('\n');
}
