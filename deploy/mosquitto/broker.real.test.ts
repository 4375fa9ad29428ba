/** The broker as a venue runs it, TLS and ACL from this folder, against gates that are not who they say. */

import type { IClientOptions } from 'mqtt';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { INGEST_SUBSCRIPTIONS } from '../../contract/topics.ts';
import { type Broker, startBroker } from '../../testkit/broker.ts';
import { connectPeer, type Peer } from '../../testkit/mqtt-client.ts';
import type { Identity } from './test-ca.ts';

const NOT_AUTHORIZED = 135;
const A = 'arena/north-03';
const B = 'arena/north-04';
const ELSEWHERE = 'stadium/east-01';
const gates = [A, B, ELSEWHERE].map((gate) => ({ gate, revoked: false }));
const root = (gate: string) => `stile/1/${gate}`;

let broker: Broker;
let a: Identity;
let b: Identity;
let cloud: Peer;
let gateA: Peer;
let gateB: Peer;
let elsewhere: Peer;

const as = (identity: Identity, options: IClientOptions = {}): IClientOptions => ({
  ca: broker.ca?.ca ?? '',
  cert: identity.cert,
  key: identity.key,
  ...options,
});
const settled = () => new Promise((resolve) => setTimeout(resolve, 300));

beforeAll(async () => {
  broker = await startBroker({ tls: true, acl: gates });
  if (broker.ca === null) throw new Error('no CA');
  [a, b] = [await broker.ca.issue(A), await broker.ca.issue(B)];
  cloud = await connectPeer(broker.cloudUrl, as(broker.ca.cloud, { clientId: 'ingest-1' }));
  await cloud.subscribe('$share/stile-ingest/stile/1/+/+/ledger');
  await cloud.subscribe('stile/1/#');
  gateA = await connectPeer(broker.url, as(a, { clientId: A }));
  gateB = await connectPeer(broker.url, as(b, { clientId: B }));
  elsewhere = await connectPeer(broker.url, as(await broker.ca.issue(ELSEWHERE), { clientId: ELSEWHERE }));
});
afterAll(async () => {
  for (const peer of [cloud, gateA, gateB, elsewhere]) await peer?.end();
  await broker?.stop();
});

test('a gate writes its own topics, and the cloud hears them through a share as well', async () => {
  for (const topic of ['state', 'info', 'health', 'stats', 'event', 'lookup', 'time', 'alert/fire', 'response/open'])
    expect(await gateA.publish(`${root(A)}/${topic}`, 'x', { qos: 1 }), topic).toBe(0);
  expect(await gateA.publish(`${root(A)}/ledger`, 'row')).toBe(0);
  await cloud.wait(({ topic }) => topic === `${root(A)}/response/open`);
  await settled();
  expect(cloud.received.filter(({ topic }) => topic === `${root(A)}/ledger`)).toHaveLength(2);
});

test('a gate cannot speak for another, nor for the cloud: refused, and nobody hears it', async () => {
  const heardBefore = cloud.received.length;
  const foreign = [
    ...['state', 'info', 'health', 'stats', 'ledger', 'event', 'lookup', 'time', 'alert/fire', 'response/open'].map((rest) => `${root(B)}/${rest}`),
    ...['ack', 'manifest/want', 'overlay', 'request/open', 'lookup/1', 'time/1'].flatMap((rest) => [`${root(A)}/${rest}`, `${root(B)}/${rest}`]),
    'stile/1/arena/cloud/ledger',
    'stile/1/arena/_all/request/open',
    'stile/1/_cloud/host/state',
    'stile/2/arena/north-03/state',
    '$SYS/x',
    'elsewhere',
  ];
  await gateB.subscribe(`${root(B)}/#`);
  await gateA.subscribe(`${root(A)}/#`);
  gateB.received.length = 0;
  gateA.received.length = 0;
  for (const topic of foreign) for (const retain of [false, true]) expect(await gateA.publish(topic, 'forged', { qos: 1, retain }), topic).toBe(NOT_AUTHORIZED);
  await settled();
  expect(cloud.received.slice(heardBefore)).toEqual([]);
  expect([...gateA.received, ...gateB.received]).toEqual([]);
});

test("a gate hears its own inbox, its site's ledgers and requests, and nothing of another's inbox", async () => {
  for (const peer of [gateA, gateB, elsewhere]) await peer.subscribe('#');
  await gateA.subscribe(`${root(B)}/+`);
  await gateA.subscribe(`${root(B)}/request/+`);
  for (const peer of [gateA, gateB, elsewhere]) peer.received.length = 0;
  for (const rest of ['ack', 'manifest/want', 'overlay', 'request/open', 'lookup/7', 'time/7'])
    expect(await cloud.publish(`${root(B)}/${rest}`, 'for B'), rest).toBe(0);
  expect(await cloud.publish('stile/1/arena/_all/request/mode', 'for the site')).toBe(0);
  expect(await cloud.publish('stile/1/arena/cloud/ledger', 'rows')).toBe(0);
  expect(await gateB.publish(`${root(B)}/ledger`, 'rows')).toBe(0);
  expect(await gateB.publish(`${root(B)}/health`, 'numbers')).toBe(0);
  await gateB.wait(({ topic }) => topic.endsWith('time/7'));
  await settled();
  const topics = (peer: Peer) => [...new Set(peer.received.map(({ topic }) => topic))].sort();
  expect(topics(gateA)).toEqual(['stile/1/arena/_all/request/mode', 'stile/1/arena/cloud/ledger', `${root(B)}/ledger`].sort());
  expect(topics(gateB)).toEqual(
    [
      'stile/1/arena/_all/request/mode',
      'stile/1/arena/cloud/ledger',
      ...['ack', 'ledger', 'lookup/7', 'manifest/want', 'overlay', 'request/open', 'time/7'].map((rest) => `${root(B)}/${rest}`),
    ].sort(),
  );
  expect(topics(elsewhere)).toEqual([]);
});

test('a gate cannot push another off by its client id, nor leave a will in its name', async () => {
  // The broker takes the certificate's name for both: what the CONNECT says is of no account.
  const imposter = await connectPeer(
    broker.url,
    as(await (broker.ca as NonNullable<Broker['ca']>).issue('arena/north-05'), {
      clientId: B,
      username: B,
      will: { topic: `${root(B)}/state`, payload: Buffer.from('forged'), qos: 1, retain: true },
    }),
  ).catch((error: unknown) => error as Error);
  // Mosquitto refuses a will that its owner may not write; where it took it, the will must not be heard.
  if (!(imposter instanceof Error)) await imposter.end(true);
  await settled();
  expect(cloud.received.some(({ payload }) => payload.toString() === 'forged')).toBe(false);
  expect(await gateB.publish(`${root(B)}/health`, 'still here')).toBe(0);
});

test('the broker refuses a client without a certificate, or with one of another CA, an expired or a revoked one', async () => {
  const ca = broker.ca as NonNullable<Broker['ca']>;
  await expect(connectPeer(broker.url, { ca: ca.ca })).rejects.toThrow();
  await expect(connectPeer(broker.url, as(ca.cloud))).rejects.toThrow();
  await expect(connectPeer(broker.cloudUrl, as(a))).rejects.toThrow();
  await expect(connectPeer(broker.url, as(await ca.issue(A, -1)))).rejects.toThrow();
  const stolen = await ca.issue('arena/north-06');
  const before = await connectPeer(broker.url, as(stolen));
  await before.end();
  ca.revoke(stolen);
  await broker.reload(gates);
  await broker.restart();
  await expect(connectPeer(broker.url, as(stolen))).rejects.toThrow();
  const still = await connectPeer(broker.url, as(a));
  expect(await still.publish(`${root(A)}/health`, 'x')).toBe(0);
  await still.end();
});

test('an ACL that was changed holds after a reload, for those who are connected too', async () => {
  const gate = await connectPeer(broker.url, as(a));
  expect(await gate.publish(`${root(A)}/health`, 'x')).toBe(0);
  await broker.reload(gates.map((entry) => ({ ...entry, revoked: entry.gate === A })));
  expect(await gate.publish(`${root(A)}/health`, 'x').catch(() => NOT_AUTHORIZED)).toBe(NOT_AUTHORIZED);
  await gate.end();
});

test('S6: an ingester hears what gates say and answers them; it commands none, by its name or by _all, and tells none what to hold', async () => {
  const ca = broker.ca as NonNullable<Broker['ca']>;
  const ingest = await connectPeer(broker.cloudUrl, as(ca.ingest, { clientId: 'ingest-2' }));
  const served = await connectPeer(broker.cloudUrl, as(ca.cloud, { clientId: 'serve-2' }));
  const gate = await connectPeer(broker.url, as(b));
  await gate.subscribe(`${root(B)}/request/+`);
  await gate.subscribe('stile/1/arena/_all/request/+');
  await gate.subscribe(`${root(B)}/manifest/want`);
  for (const topic of INGEST_SUBSCRIPTIONS) await ingest.subscribe(topic);
  await ingest.subscribe('stile/1/+/+/request/+');
  for (const topic of ['request/open', 'request/mode', 'manifest/want', 'overlay', 'state', 'alert/fire'])
    for (const retain of [false, true]) expect(await ingest.publish(`${root(B)}/${topic}`, 'forged', { qos: 1, retain }), topic).toBe(NOT_AUTHORIZED);
  for (const topic of ['stile/1/arena/_all/request/open', 'stile/1/arena/_all/request/mode', `${root(B)}/ledger`, 'stile/1/arena/_all/ledger'])
    expect(await ingest.publish(topic, 'forged', { qos: 1 }), topic).toBe(NOT_AUTHORIZED);
  for (const topic of [`${root(B)}/ack`, `${root(B)}/lookup/3`, `${root(B)}/time/3`, 'stile/1/arena/cloud/ledger', 'stile/1/_cloud/host-2/state'])
    expect(await ingest.publish(topic, 'its own', { qos: 1 }), topic).toBe(0);
  expect(await gate.publish(`${root(B)}/ledger`, 'rows', { qos: 1 })).toBe(0);
  expect(await served.publish(`${root(B)}/request/open`, 'a command', { qos: 1 })).toBe(0);
  await gate.wait(({ topic }) => topic === `${root(B)}/request/open`);
  await ingest.wait(({ topic }) => topic === `${root(B)}/ledger`);
  await settled();
  expect([...gate.received, ...ingest.received].filter(({ payload }) => payload.toString() === 'forged')).toEqual([]);
  expect(ingest.received.filter(({ topic }) => topic.includes('/request/'))).toEqual([]);
  for (const peer of [ingest, served, gate]) await peer.end();
});
