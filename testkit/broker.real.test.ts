import { existsSync } from 'node:fs';
import { expect, test } from 'vitest';
import { startBroker } from './broker.ts';
import { connectPeer } from './mqtt-client.ts';

const runs = (pid: number | undefined): boolean => pid !== undefined && existsSync(`/proc/${pid}`);

test('the broker keeps its retained messages over a restart on the same port, and is gone when it is stopped', async () => {
  const broker = await startBroker({ persistence: true });
  const before = await connectPeer(broker.url);
  await before.publish('stile/1/arena/north-03/state', 'kept', { qos: 1, retain: true });
  const first = broker.pid();
  await broker.restart();
  expect(broker.pid()).not.toBe(first);
  expect(runs(first)).toBe(false);
  const after = await connectPeer(broker.url);
  await after.subscribe('stile/1/#');
  expect((await after.wait(() => true)).payload.toString()).toBe('kept');
  await after.end();
  await before.end();
  await broker.kill();
  await expect(connectPeer(broker.url)).rejects.toThrow();
  await broker.restart();
  const pid = broker.pid();
  await broker.stop();
  expect(runs(pid)).toBe(false);
});

test('a broker that cannot start says why', async () => {
  const broker = await startBroker();
  await expect(startBroker({ port: broker.port })).rejects.toThrow(/port \d+ is in use/);
  await broker.stop();
  await expect(startBroker({ acl: 'nonsense here' })).rejects.toThrow(/Mosquitto did not start[\s\S]*acl/i);
});
