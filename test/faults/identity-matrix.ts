/**
 * No device speaks for another (PROMISES.md, row 7): every identity tries everything that is not its own, at the broker as a venue runs
 * it (deploy/mosquitto: TLS, generated ACL, list of revoked certificates), with MQTT 3.1.1 and 5; and every gate lies in its own
 * topic to the real ingest.
 *
 *   node test/faults/identity-matrix.ts [--gates-per-site 3] [--plant write|read|share]
 *
 * Plants, which must be seen: a wildcard in the ACL; thieves who know the name of the ingesters' share.
 */
import { parseArgs } from 'node:util';
import type { IClientOptions } from 'mqtt';
import { type AclGate, aclFile } from '../../cloud/mqtt/broker-acl.ts';
import { createTestCa, type Identity, type TestCa } from '../../deploy/mosquitto/test-ca.ts';
import { startBroker } from '../../testkit/broker.ts';
import { connectPeer, type Peer } from '../../testkit/mqtt-client.ts';
import { as, CLOUD, cloudOf, fleetOf, type Matrix, nth, type Person, PROTOCOLS, type Protocol, tried } from './fleet.ts';
import { tellLies } from './impersonation.ts';

const NOT_AUTHORIZED = 135;
/** Publishes of one connection that wait for the broker's word. */
const UNDER_WAY = 50;
/** What comes by mistake has come by then, after everything that was sent was answered. */
const QUIET_MS = 300;
/** A broker that has not said yes by then has said no. */
const REFUSED_MS = 3_000;
const DISMISSED = 'arena/dismissed';

export type MatrixPlant = 'write' | 'read' | 'share';
export type MatrixPart = 'publishing' | 'subscribing' | 'names' | 'doors' | 'lies' | 'revocation';
export type MatrixResult = Pick<Matrix, 'attempts' | 'crossings' | 'broken'>;

/** The whole, with `perSite` gates at each of two sites. */
export async function identityMatrix(options: {
  readonly perSite: number;
  readonly plant?: MatrixPlant | null;
  readonly only?: readonly MatrixPart[];
}): Promise<MatrixResult> {
  const fleet = fleetOf(options.perSite);
  const enlisted = [...fleet.gates.map((gate) => ({ gate, revoked: false })), { gate: DISMISSED, revoked: true }];
  const acl = (more: readonly AclGate[] = []) => aclFile([...enlisted, ...more]) + planted(options.plant ?? null);
  const broker = await startBroker({ tls: true, acl: acl() });
  try {
    const ca = broker.ca as TestCa;
    const person = async (name: string): Promise<Person> => ({ name, identity: await ca.issue(name), url: broker.url });
    const people: Person[] = [
      ...(await Promise.all(fleet.gates.map(person))),
      { name: CLOUD, identity: ca.cloud, url: broker.cloudUrl },
      // Revoked in the ACL, and never enrolled: nobodies, with certificates.
      await person(DISMISSED),
      await person('arena/stranger'),
    ];
    const matrix: Matrix = { fleet, broker, ca, people, attempts: {}, crossings: [], broken: [] };
    const parts: Readonly<Record<MatrixPart, () => Promise<void>>> = {
      publishing: () => publishing(matrix),
      subscribing: () => subscribing(matrix),
      names: () => borrowedNames(matrix),
      doors: () => doors(matrix),
      lies: () => lying(matrix, options.plant === 'share'),
      revocation: () => revocation(matrix, acl),
    };
    for (const part of options.only ?? (Object.keys(parts) as MatrixPart[])) await parts[part]();
    return matrix;
  } finally {
    await broker.stop();
  }
}

const planted = (plant: MatrixPlant | null): string =>
  plant === null || plant === 'share'
    ? ''
    : plant === 'write'
      ? '\nuser arena/g0\ntopic write stile/1/arena/+/ledger\n'
      : '\nuser stadium/g0\ntopic read stile/1/+/+/request/+\n';
/** A connection that the broker may refuse, or let fall without a word; null then. */
async function attempted(url: string, options: IClientOptions): Promise<Peer | null> {
  const connecting = connectPeer(url, options).catch(() => null);
  const late = new Promise<null>((resolve) => setTimeout(() => resolve(null), REFUSED_MS).unref());
  const peer = await Promise.race([connecting, late]);
  if (peer === null) void connecting.then((there) => there?.end(true).catch(() => undefined));
  return peer;
}

/** Drops a connection without a word, as a gate does that loses its power. Never waits for what is gone already. */
const drop = (peer: Peer | null): Promise<unknown> =>
  peer === null ? Promise.resolve() : Promise.race([peer.end(true).catch(() => undefined), new Promise((resolve) => setTimeout(resolve, REFUSED_MS).unref())]);
const quiet = () => new Promise<void>((resolve) => setTimeout(resolve, QUIET_MS));

/** Each publishes on every topic that is not its own: nobody may hear of it, now or later. */
async function publishing(matrix: Matrix): Promise<void> {
  const { fleet, people } = matrix;
  const ear = async (): Promise<Peer> => {
    const peer = await connectPeer(cloudOf(matrix).url, as(matrix, cloudOf(matrix), 5));
    await peer.subscribe('#');
    return peer;
  };
  const now = await ear();
  for (const protocol of PROTOCOLS)
    for (const who of people) {
      const peer = await connectPeer(who.url, as(matrix, who, protocol));
      const waiting: Promise<void>[] = [];
      for (const topic of fleet.topics.filter((one) => !fleet.mayWrite(who.name, one)))
        for (const retain of [false, true])
          for (const qos of [0, 1] as const) {
            waiting.push(forge(matrix, peer, { who, topic, retain, qos, protocol }));
            if (waiting.length >= UNDER_WAY) await Promise.all(waiting.splice(0));
          }
      await Promise.all(waiting);
      await peer.end();
    }
  await quiet();
  const later = await ear();
  await quiet();
  for (const { received } of [now, later]) forgeries(matrix, received);
  for (const peer of [now, later]) await peer.end();
}

async function forge(
  matrix: Matrix,
  peer: Peer,
  what: { readonly who: Person; readonly topic: string; readonly retain: boolean; readonly qos: 0 | 1; readonly protocol: Protocol },
): Promise<void> {
  const { who, topic, retain, qos, protocol } = what;
  tried(matrix, 'publishes');
  const code = await peer.publish(topic, `forged: ${who.name} on ${topic}`, { qos, retain });
  // Only MQTT 5 has a word for no; the others are judged by who hears them.
  if (protocol === 5 && qos === 1 && code !== NOT_AUTHORIZED) matrix.crossings.push(`${who.name} on ${topic} (${nth(protocol)}): answered ${code}`);
}

function forgeries(matrix: Matrix, received: Peer['received']): void {
  for (const { topic, payload } of received)
    if (payload.toString().startsWith('forged: ')) matrix.crossings.push(`${payload.toString().slice(8)}: heard on ${topic}`);
}

/** Everybody subscribes to everything, then each says what it may. Who hears what it may not, and who does not hear what it may? */
async function subscribing(matrix: Matrix): Promise<void> {
  const { fleet, people } = matrix;
  for (const protocol of PROTOCOLS) {
    const open = async (who: Person) => {
      const peer = await connectPeer(who.url, as(matrix, who, protocol));
      await Promise.all(fleet.filters.map((filter) => peer.subscribe(filter).catch(() => undefined)));
      return { who, peer };
    };
    const live = await Promise.all(people.map(open));
    for (const { who, peer } of live)
      await Promise.all(
        fleet.topics.filter((one) => fleet.mayWrite(who.name, one)).map((topic) => peer.publish(topic, `true word of ${who.name}`, { qos: 1, retain: true })),
      );
    await quiet();
    for (const { who, peer } of live) {
      for (const topic of fleet.topics.filter((one) => fleet.mayRead(who.name, one) && people.some(({ name }) => fleet.mayWrite(name, one))))
        if (!peer.received.some((heard) => heard.topic === topic)) matrix.broken.push(`${who.name} did not hear ${topic} (${nth(protocol)})`);
      overheard(matrix, 'live messages', who, peer, protocol);
      await peer.end();
    }
    // All of it was retained, as a careless sender might: who comes later hears no more than who was there.
    const late = await Promise.all(people.map(open));
    await quiet();
    for (const { who, peer } of late) {
      overheard(matrix, 'retained messages', who, peer, protocol);
      await peer.end();
    }
  }
}

function overheard(matrix: Matrix, kind: string, who: Person, peer: Peer, protocol: Protocol): void {
  const { fleet } = matrix;
  tried(matrix, kind, fleet.topics.filter((topic) => !fleet.mayRead(who.name, topic)).length);
  for (const topic of new Set(peer.received.map((heard) => heard.topic)))
    if (!fleet.mayRead(who.name, topic)) matrix.crossings.push(`${who.name} heard ${topic} (${nth(protocol)}, ${kind})`);
}

/** Each comes under the client id and user name of another who is there, with a last will in his name. */
async function borrowedNames(matrix: Matrix): Promise<void> {
  const { fleet, people } = matrix;
  const ear = await connectPeer(cloudOf(matrix).url, as(matrix, cloudOf(matrix), 5));
  await ear.subscribe('stile/1/#');
  for (const victim of people.filter(({ name }) => name !== CLOUD && fleet.gates.includes(name)))
    for (const protocol of PROTOCOLS) {
      const there = await connectPeer(victim.url, as(matrix, victim, 5));
      for (const who of people.filter(({ name }) => name !== victim.name)) {
        const named = { clientId: victim.name, username: victim.name };
        // At the cloud's door client ids are free: the cloud could push a gate off, as it could revoke it.
        if (who.name !== CLOUD) {
          tried(matrix, 'client ids');
          await drop(await attempted(who.url, as(matrix, who, protocol, named)));
        }
        for (const rest of ['state', 'ledger', 'ack', 'request/open']) {
          const topic = `stile/1/${victim.name}/${rest}`;
          if (fleet.mayWrite(who.name, topic)) continue;
          tried(matrix, 'last wills');
          const will = { topic, payload: Buffer.from(`forged: the will of ${who.name} on ${topic}`), qos: 1 as const, retain: true };
          // Refused at once, or taken and never published.
          const peer = await attempted(who.url, as(matrix, who, protocol, { ...(who.name === CLOUD ? {} : named), will }));
          await drop(peer);
        }
      }
      // Whoever was pushed off cannot say this any more.
      const word = await Promise.race([
        there.publish(`stile/1/${victim.name}/health`, 'still here').catch((error: Error) => error.message),
        new Promise((resolve) => setTimeout(() => resolve('no answer'), REFUSED_MS).unref()),
      ]);
      if (word !== 0) matrix.crossings.push(`${victim.name} was pushed off by somebody with its client id (${nth(protocol)}): ${word}`);
      await drop(there);
    }
  await quiet();
  forgeries(matrix, ear.received);
  await ear.end();
}

async function lying(matrix: Matrix, thievesKnow: boolean): Promise<void> {
  const lies = await tellLies(matrix, { thievesKnow });
  tried(matrix, "lies on one's own topic", lies.told);
  tried(matrix, "thefts from the ingesters' share", lies.thieves);
  matrix.crossings.push(...lies.believed);
  matrix.broken.push(...lies.unheard);
}

/** No certificate, one of another authority, one that is over, and the right one at the wrong door. */
async function doors(matrix: Matrix): Promise<void> {
  const { ca, broker, people } = matrix;
  const gate = people[0] as Person;
  const other = await createTestCa();
  const attempt = async (what: string, url: string, identity: Identity | null, protocol: Protocol) => {
    tried(matrix, 'doors');
    const options = { ca: ca.ca, protocolVersion: protocol, connectTimeout: 5_000, ...(identity === null ? {} : { cert: identity.cert, key: identity.key }) };
    const peer = await attempted(url, options);
    if (peer !== null) matrix.crossings.push(`${what} was let in (${nth(protocol)})`);
    await drop(peer);
  };
  for (const protocol of PROTOCOLS) {
    for (const [door, url] of [['the gates', broker.url] as const, ['the cloud', broker.cloudUrl] as const]) {
      await attempt(`nobody at the door of ${door}`, url, null, protocol);
      await attempt(`a certificate of another authority at the door of ${door}`, url, await other.issue(gate.name), protocol);
      await attempt(`another authority's cloud at the door of ${door}`, url, other.cloud, protocol);
      await attempt(`a certificate that is over at the door of ${door}`, url, await ca.issue(gate.name, -1), protocol);
    }
    for (const { name, identity } of people.filter((one) => one.name !== CLOUD))
      await attempt(`${name} at the cloud's door`, broker.cloudUrl, identity, protocol);
    await attempt("the cloud at the gates' door", broker.url, ca.cloud, protocol);
  }
}

/** A gate is revoked while it is connected: after the reload it says and hears nothing more, and comes in no more. */
async function revocation(matrix: Matrix, acl: (more?: readonly AclGate[]) => string): Promise<void> {
  const { broker, ca, fleet } = matrix;
  const name = 'arena/leaving';
  await broker.reload(acl([{ gate: name, revoked: false }]));
  const leaving: Person = { name, identity: await ca.issue(name), url: broker.url };
  const cloud = await connectPeer(cloudOf(matrix).url, as(matrix, cloudOf(matrix), 5));
  await cloud.subscribe('stile/1/#');
  const own = ['state', 'ledger', 'health', 'alert/fire'].map((rest) => `stile/1/${name}/${rest}`);
  const peer = await connectPeer(leaving.url, as(matrix, leaving, 5));
  for (const filter of [`stile/1/${name}/#`, 'stile/1/arena/+/ledger', '#']) await peer.subscribe(filter);
  if ((await peer.publish(own[0] as string, 'while it may')) !== 0) matrix.broken.push(`${name} could not speak before it was revoked`);
  ca.revoke(leaving.identity);
  await broker.reload(acl([{ gate: name, revoked: true }]));
  peer.received.length = 0;
  for (const topic of [...own, ...fleet.topics]) await forge(matrix, peer, { who: leaving, topic, retain: true, qos: 1, protocol: 5 }).catch(() => undefined);
  for (const rest of ['ack', 'request/open']) await cloud.publish(`stile/1/${name}/${rest}`, 'not for you any more');
  await quiet();
  tried(matrix, 'after revocation', own.length + fleet.topics.length + 2);
  forgeries(matrix, cloud.received);
  for (const { topic } of peer.received) matrix.crossings.push(`${name} heard ${topic} after it was revoked`);
  await peer.end();
  for (const protocol of PROTOCOLS) {
    tried(matrix, 'after revocation');
    const back = await attempted(leaving.url, as(matrix, leaving, protocol));
    if (back !== null) matrix.crossings.push(`${name} came in again after its certificate was revoked and the broker reloaded (${nth(protocol)})`);
    await drop(back);
  }
  await cloud.end();
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { 'gates-per-site': { type: 'string', default: '3' }, plant: { type: 'string' } } });
  const perSite = Number(values['gates-per-site']);
  const beganMs = performance.now();
  const { attempts, crossings, broken } = await identityMatrix({ perSite, plant: (values.plant as MatrixPlant | undefined) ?? null });
  const sum = Object.values(attempts).reduce((all, one) => all + one, 0);
  const kinds = Object.entries(attempts).map(([kind, count]) => `${count} ${kind}`);
  process.stdout.write(
    `figure: ${perSite * 2} gates of 2 sites, the cloud and nobodies, MQTT 3.1.1 and 5: ${crossings.length} crossings in ${sum} attempts (${kinds.join(', ')}) in ${((performance.now() - beganMs) / 1000).toFixed(0)} s\n`,
  );
  for (const line of [...crossings.slice(0, 20).map((one) => `crossing: ${one}`), ...broken.slice(0, 20).map((one) => `nothing shown: ${one}`)])
    process.stdout.write(`  ${line}\n`);
  process.exitCode = crossings.length === 0 && broken.length === 0 ? 0 : 1;
}

if (import.meta.main) {
  await main();
  process.exit();
}
