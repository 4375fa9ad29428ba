import { createServer } from 'node:net';
import { Aedes } from 'aedes';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Broker, startBroker } from '../../testkit/broker.ts';
import { createBroker, type IncomingMessage } from './client.ts';

let mosquitto: Broker;
beforeAll(async () => {
  mosquitto = await startBroker();
});
afterAll(() => mosquitto.stop());
const settings = (url = mosquitto.cloudUrl) => ({ url, ca: null, cert: null, key: null });
const QOS1 = { qos: 1, retain: false } as const;

test('messages come without waiting for each other, and the broker keeps what was not acknowledged', async () => {
  const held: IncomingMessage[] = [];
  const sender = createBroker({ settings: settings(), host: null });
  const receiver = createBroker({ settings: settings(), host: null, subscriptions: ['brake/#'], onMessage: (message) => held.push(message) });
  await Promise.all([sender.open(), receiver.open()]);
  await Promise.all(Array.from({ length: 1_300 }, (_, n) => sender.publish(`brake/${n}`, String(n), QOS1)));
  // receiveMaximum: so many come unacknowledged, no more.
  await expect.poll(() => held.length).toBe(1_000);
  await new Promise((done) => setTimeout(done, 200));
  expect(held.length).toBe(1_000);
  for (let n = 0; n < 1_000; n++) {
    held[n]?.acknowledge();
    held[n]?.acknowledge();
  }
  await expect.poll(() => held.length).toBe(1_300);
  expect(held.map(({ topic }) => topic)).toEqual(Array.from({ length: 1_300 }, (_, n) => `brake/${n}`));
  await Promise.all([sender.close(), receiver.close()]);
});

test('the client takes fewer large messages: the broker keeps what would be too many bytes, of QoS 0 as well', async () => {
  const size = 200 * 1024;
  for (const protocol of [5, 4] as const)
    for (const qos of [1, 0] as const) {
      const held: IncomingMessage[] = [];
      const sender = createBroker({ settings: settings(), host: null });
      const receiver = createBroker({ settings: settings(), host: null, subscriptions: ['large/#'], onMessage: (message) => held.push(message), protocol });
      await Promise.all([sender.open(), receiver.open()]);
      await Promise.all(Array.from({ length: 60 }, (_, n) => sender.publish(`large/${n}`, Buffer.alloc(size, n), { qos, retain: false })));
      const most = Math.ceil((3 * 1024 * 1024) / size);
      await expect.poll(() => held.length).toBe(most);
      await new Promise((done) => setTimeout(done, 100));
      expect(held.length).toBe(most);
      for (let n = 0; n < 60; n++) {
        await expect.poll(() => held.length).toBeGreaterThan(n);
        expect([held[n]?.topic, held[n]?.payload.byteLength, held[n]?.payload[0]]).toEqual([`large/${n}`, size, n]);
        held[n]?.acknowledge();
      }
      await Promise.all([sender.close(), receiver.close()]);
    }
});

test('a lost connection comes back, with its subscriptions and presence; without one nothing is kept for later', async () => {
  const own = await startBroker();
  const changes: boolean[] = [];
  const heard: string[] = [];
  const broker = createBroker({
    settings: settings(own.cloudUrl),
    host: 'here',
    subscriptions: ['stile/1/_cloud/+/state', 'x/+'],
    onMessage: (message) => {
      message.acknowledge();
      heard.push(`${message.topic} ${Buffer.from(message.payload)}`);
    },
    onConnection: (connected) => changes.push(connected),
  });
  expect(await broker.open()).toBe(true);
  await own.kill();
  await expect.poll(() => broker.connected()).toBe(false);
  await expect(broker.publish('x/1', 'lost', QOS1)).rejects.toThrow('not connected');
  await own.restart();
  await expect.poll(() => broker.connected()).toBe(true);
  await broker.publish('x/2', 'kept', QOS1);
  await expect.poll(() => heard.at(-1)).toBe('x/2 kept');
  expect(changes[0]).toBe(true);
  expect(changes.filter((connected) => connected).length).toBe(2);
  await broker.close();
  const witness = createBroker({
    settings: settings(own.cloudUrl),
    host: null,
    subscriptions: ['stile/1/_cloud/here/state'],
    onMessage: (message) => {
      message.acknowledge();
      heard.push(Buffer.from(message.payload).toString());
    },
  });
  await witness.open();
  await expect.poll(() => heard.at(-1)).toContain('"offline"');
  await witness.close();
  await own.stop();
});

test('a broker without MQTT 5 is spoken to in 3.1.1', async () => {
  const aedes = await Aedes.createBroker();
  const server = createServer(aedes.handle);
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  const { port } = server.address() as { port: number };
  const heard: string[] = [];
  const how: string[] = [];
  const broker = createBroker({
    settings: settings(`mqtt://127.0.0.1:${port}`),
    host: 'demo',
    subscriptions: ['a/+'],
    onMessage: (message) => {
      message.acknowledge();
      heard.push(message.topic);
    },
    onConnection: (_connected, reason) => how.push(reason),
  });
  expect(await broker.open()).toBe(true);
  await broker.publish('a/b', '1', { qos: 1, retain: false, expirySeconds: 5 });
  await expect.poll(() => heard).toEqual(['a/b']);
  expect(how.at(-1)).toBe('MQTT 3.1.1');
  await broker.close();
  await new Promise<void>((done) => aedes.close(() => done()));
  server.close();
});

test('open reports a missing broker within its time, and retries', async () => {
  const broker = createBroker({ settings: settings('mqtt://127.0.0.1:1'), host: null });
  expect(await broker.open(300)).toBe(false);
  await broker.close();
});
