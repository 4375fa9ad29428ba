import { randomUUID } from 'node:crypto';
import { createServer, type Socket } from 'node:net';
import { Aedes } from 'aedes';
import { afterEach, expect, test } from 'vitest';
import { AlertMessage, InfoMessage, StateMessage } from '../../contract/messages.ts';
import { parsePayload } from '../../contract/parse.ts';
import { ResponseMessage } from '../../contract/requests.ts';
import { type Broker, freePort, startBroker } from '../../testkit/broker.ts';
import { connectPeer, type Peer } from '../../testkit/mqtt-client.ts';
import type { UplinkEvent } from '../ports.ts';
import { createUplink, type MqttUplink, type UplinkOptions } from './mqtt-uplink.ts';
import { TEST_INFO, testClock, testCloud, testDecider, testLog, until } from './testing/ports.ts';

const GATE = 'arena/north-03';
const own = `stile/1/${GATE}`;
const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const clean of cleanups.splice(0).reverse()) await clean();
});

const broker = async (options: Parameters<typeof startBroker>[0] = {}): Promise<Broker> => {
  const started = await startBroker(options);
  cleanups.push(() => started.stop());
  return started;
};
const peer = async (url: string, options: Parameters<typeof connectPeer>[1] = {}): Promise<Peer> => {
  const made = await connectPeer(url, options);
  cleanups.push(() => made.end());
  return made;
};

/** A gate's uplink whose decider takes acks, and the events that it receives. */
function gate(url: string, over: Partial<UplinkOptions> = {}) {
  const clock = testClock();
  const decider = testDecider(GATE);
  const events: UplinkEvent[] = [];
  const logged: string[] = [];
  const uplink: MqttUplink = createUplink({
    gate: GATE,
    url,
    clock,
    decider,
    info: TEST_INFO,
    log: testLog((level, message, fields) => logged.push(`${level} ${message} ${JSON.stringify(fields ?? {})}`)),
    timing: { reconnectFirstMs: 50, reconnectMaxMs: 400, resendFirstMs: 150, resendMaxMs: 300 },
    ...over,
  });
  cleanups.push(() => uplink.close('test over'));
  const open = () =>
    uplink.open((event) => {
      events.push(event);
      if (event.kind === 'ack') decider.acknowledge(event.ack);
    });
  return { clock, decider, events, logged, uplink, open };
}

/** The cloud as the gate knows it: answers every ledger message with a retained ack, while `answering`. */
async function cloudOn(broker: { cloudUrl: string }, epoch: number, options: { answering?: boolean; protocolVersion?: 4 | 5 } = {}) {
  const side = await peer(broker.cloudUrl, { clientId: 'cloud', protocolVersion: options.protocolVersion ?? 5 });
  const book = testCloud(epoch);
  const cloud = { side, book, answering: options.answering ?? true, sendAck: () => side.publish(`${own}/ack`, book.ack(), { qos: 1, retain: true }) };
  await side.subscribe('stile/1/+/+/+');
  await side.subscribe('stile/1/+/+/response/+');
  await side.subscribe('stile/1/+/+/alert/+');
  void side
    .wait((message) => {
      if (message.topic !== `${own}/ledger` || !cloud.answering) return false;
      book.take(message.payload);
      void cloud.sendAck().catch(() => {});
      return false;
    }, 60_000)
    .catch(() => {});
  return cloud;
}

/** A broker that knows no MQTT 5. `met`: the version of each CONNECT. */
async function brokerOf311(met: (version: number | undefined) => void = () => undefined): Promise<{ url: string }> {
  const aedes = await Aedes.createBroker();
  const server = createServer((socket) => {
    aedes.handle(socket);
  });
  const port = await freePort();
  aedes.preConnect = (_client, packet, done) => {
    met(packet.protocolVersion);
    done(null, true);
  };
  await new Promise<void>((resolve) => {
    server.listen(port, '127.0.0.1', resolve);
  });
  cleanups.push(async () => {
    await new Promise<void>((resolve) => {
      aedes.close(() => resolve());
    });
    server.close();
  });
  return { url: `mqtt://127.0.0.1:${port}` };
}

const firstSeq = (payload: Buffer): number => JSON.parse(payload.toString()).entries[0].seq;
const ledgerOf = (side: Peer) => side.received.filter(({ topic }) => topic === `${own}/ledger`);

test('publishes state and info retained, speaks MQTT 5, and says offline with its reason when it closes', async () => {
  const b = await broker();
  const { uplink, open, events } = gate(b.url);
  open();
  await until('online', () => uplink.online());
  expect(uplink.protocol()).toBe(5);
  expect(events.map(({ kind }) => kind)).toContain('online');
  const side = await peer(b.url);
  await side.subscribe('stile/1/#');
  const state = await side.wait(({ topic }) => topic === `${own}/state`);
  expect(state.packet.retain).toBe(true);
  const online = parsePayload(StateMessage, state.payload);
  expect(online).toMatchObject({ ok: true, value: { state: 'online' } });
  expect(parsePayload(InfoMessage, (await side.wait(({ topic }) => topic === `${own}/info`)).payload)).toMatchObject({ ok: true, value: { version: '0.1.0' } });
  await uplink.close('restart');
  const last = await side.wait(({ topic, payload }) => topic === `${own}/state` && payload.includes('offline'));
  expect(JSON.parse(last.payload.toString())).toMatchObject({
    state: 'offline',
    reason: 'restart',
    session: (online as { value: StateMessage }).value.session,
  });
});

test('the broker publishes the will of a gate that disappears, with its session', async () => {
  const b = await broker();
  const { uplink, open } = gate(b.url, { timing: { reconnectFirstMs: 20_000, reconnectMaxMs: 20_000 } });
  const side = await peer(b.url);
  await side.subscribe(`${own}/state`);
  open();
  const online = JSON.parse((await side.wait(({ payload }) => payload.includes('online'))).payload.toString());
  // Another client with the gate's id pushes the connection off without its DISCONNECT.
  const clone = await peer(b.url, { clientId: GATE });
  const will = JSON.parse((await side.wait(({ payload }) => payload.includes('offline'))).payload.toString());
  expect(will).toMatchObject({ state: 'offline', reason: 'connection lost', session: online.session });
  await until('offline reported', () => !uplink.online());
  await clone.end();
});

test('the uplink sends the ledger in order, with bounded batches in flight, released by the ack alone', async () => {
  const b = await broker();
  const g = gate(b.url, { timing: { resendFirstMs: 60_000 } });
  const cloud = await cloudOn(b, g.decider.epoch, { answering: false });
  g.decider.write(2_000);
  g.open();
  await until('the window is full', () => ledgerOf(cloud.side).length >= 8);
  await new Promise((resolve) => setTimeout(resolve, 300));
  expect(ledgerOf(cloud.side).map(({ payload }) => firstSeq(payload))).toEqual([1, 101, 201, 301, 401, 501, 601, 701]);
  expect(g.uplink.inFlight()).toBe(8);
  expect(g.decider.backlog()).toBe(2_000);
  cloud.answering = true;
  for (const { payload } of ledgerOf(cloud.side)) cloud.book.take(payload);
  await cloud.sendAck();
  await until('all acknowledged', () => g.decider.backlog() === 0);
  expect(cloud.book.rows.size).toBe(2_000);
  expect([...cloud.book.rows.values()].every((times) => times === 1)).toBe(true);
  expect(g.uplink.inFlight()).toBe(0);
  g.decider.write(1);
  g.uplink.kick();
  await until('the new row', () => g.decider.backlog() === 0);
});

test('the uplink resends the oldest batch without an ack, and all batches once the cloud is back', async () => {
  const b = await broker();
  const g = gate(b.url);
  const cloud = await cloudOn(b, g.decider.epoch, { answering: false });
  g.decider.write(500);
  g.open();
  await until('the oldest came three times', () => ledgerOf(cloud.side).filter(({ payload }) => firstSeq(payload) === 1).length >= 3);
  expect(ledgerOf(cloud.side).filter(({ payload }) => firstSeq(payload) === 101)).toHaveLength(1);
  cloud.answering = true;
  await until('all acknowledged', () => g.decider.backlog() === 0);
  expect(cloud.book.rows.size).toBe(500);
});

test('begins again after the acknowledged rows when the broker was killed and came back', async () => {
  const b = await broker();
  const g = gate(b.url);
  let cloud = await cloudOn(b, g.decider.epoch);
  g.decider.write(150);
  g.open();
  await until('first rows acknowledged', () => g.decider.backlog() === 0);
  await b.kill();
  await until('offline', () => !g.uplink.online());
  expect(g.events.some((event) => event.kind === 'offline' && event.fault.hint !== '')).toBe(true);
  g.decider.write(1_000);
  for (let i = 0; i < 1_000; i++) g.uplink.kick();
  await b.restart();
  cloud = await cloudOn(b, g.decider.epoch);
  for (let seq = 1; seq <= 150; seq++) cloud.book.rows.set(seq, 1);
  await until('all acknowledged', () => g.decider.backlog() === 0);
  expect(cloud.book.rows.size).toBe(1_150);
  expect(ledgerOf(cloud.side).every(({ payload }) => firstSeq(payload) > 150)).toBe(true);
});

test('the uplink retries without a listener and after a refused CONNACK', async () => {
  const port = await freePort();
  const g = gate(`mqtt://127.0.0.1:${port}`);
  g.open();
  await until('offline reported', () => g.events.some(({ kind }) => kind === 'offline'));
  expect(g.events.find((event) => event.kind === 'offline')).toMatchObject({ fault: { cause: expect.stringContaining('ECONNREFUSED'), healsItself: true } });
  // 3.1.1's "not authorized", three times, from a broker of a few bytes; then the real one.
  let refusals = 0;
  const refusing = createServer((socket: Socket) => {
    socket.on('error', () => {});
    socket.once('data', () => {
      refusals += 1;
      socket.end(Buffer.from([0x20, 0x03, 0x00, 0x87, 0x00]));
    });
  });
  await new Promise<void>((resolve) => {
    refusing.listen(port, '127.0.0.1', resolve);
  });
  await until('refused three times', () => refusals >= 3);
  expect(g.events.some((event) => event.kind === 'offline' && /not authorized/i.test(event.fault.cause) && event.fault.hint.includes('ACL'))).toBe(true);
  await new Promise((resolve) => {
    refusing.close(resolve);
  });
  await broker({ port });
  await until('online', () => g.uplink.online());
});

test('falls back to MQTT 3.1.1 with a broker that knows no other, and does the same there', async () => {
  const seen: (number | undefined)[] = [];
  const { url } = await brokerOf311((version) => seen.push(version));
  const g = gate(url);
  const cloud = await cloudOn({ cloudUrl: url }, g.decider.epoch, { protocolVersion: 4 });
  g.decider.write(300);
  const before = seen.length;
  g.open();
  await until('online', () => g.uplink.online());
  expect(g.uplink.protocol()).toBe(4);
  expect(seen.slice(before)).toEqual([5, 4]);
  await until('all acknowledged', () => g.decider.backlog() === 0);
  expect(cloud.book.rows.size).toBe(300);
});

test('the uplink publishes present alerts and clears retained ones that have ended', async () => {
  const b = await broker();
  const side = await peer(b.url);
  await side.subscribe(`${own}/alert/+`);
  await side.publish(
    `${own}/alert/reader-old`,
    { schema: 1, since: new Date().toISOString(), severity: 'critical', message: 'gone' },
    { qos: 1, retain: true },
  );
  const { uplink, open } = gate(b.url);
  uplink.raise('fire', 'critical', 'the fire loop is open');
  uplink.raise('disk', 'warning', 'almost full');
  uplink.clear('disk');
  open();
  const fire = await side.wait(({ topic }) => topic === `${own}/alert/fire`);
  expect(parsePayload(AlertMessage, fire.payload)).toMatchObject({ ok: true, value: { severity: 'critical' } });
  await side.wait(({ topic, payload }) => topic === `${own}/alert/reader-old` && payload.length === 0);
  expect(side.received.some(({ topic }) => topic === `${own}/alert/disk`)).toBe(false);
  uplink.clear('fire');
  await side.wait(({ topic, payload }) => topic === `${own}/alert/fire` && payload.length === 0);
  const late = await peer(b.url);
  await late.subscribe(`${own}/alert/+`);
  await new Promise((resolve) => setTimeout(resolve, 200));
  expect(late.received).toEqual([]);
});

test('the uplink queues nothing offline: 200,000 publishes cost no memory', async () => {
  const g = gate(`mqtt://127.0.0.1:${await freePort()}`);
  g.open();
  const event = { type: 'grant', severity: 'info', ts: new Date().toISOString(), detail: { text: 'x'.repeat(200) } } as const;
  for (let i = 0; i < 20_000; i++) g.uplink.event(event);
  await new Promise((resolve) => setTimeout(resolve, 50));
  globalThis.gc?.();
  const before = process.memoryUsage().heapUsed;
  for (let i = 0; i < 200_000; i++) {
    g.uplink.event(event);
    g.uplink.kick();
    if (i % 10_000 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  await new Promise((resolve) => setTimeout(resolve, 50));
  globalThis.gc?.();
  // Kept, they would be 200,000 × more than 300 bytes.
  expect(process.memoryUsage().heapUsed - before).toBeLessThan(30_000_000);
});

test('a gate without a trusted clock takes a command by the nonce of its state, once, on its own topic', async () => {
  const b = await broker();
  const g = gate(b.url);
  const cloud = await cloudOn(b, g.decider.epoch);
  const watcher = await peer(b.url);
  await watcher.subscribe(`${own}/state`);
  const nonces: string[] = [];
  /** Returns the newest nonce of the gate's state that is none of those before. */
  const nextNonce = async (): Promise<string> => {
    const found = await watcher.wait(({ topic, payload }) => {
      const { nonce } = topic === `${own}/state` ? (JSON.parse(payload.toString()) as { nonce?: string }) : {};
      return nonce !== undefined && !nonces.includes(nonce);
    });
    const { nonce } = JSON.parse(found.payload.toString()) as { nonce: string };
    nonces.push(nonce);
    return nonce;
  };
  const codeOf = async (transaction: string) => {
    const message = await cloud.side.wait(({ topic, payload }) => topic.startsWith(`${own}/response/`) && payload.includes(transaction));
    return (JSON.parse(message.payload.toString()) as { error?: { code: string } }).error?.code ?? 'ok';
  };
  const handed = () => g.events.filter((event) => event.kind === 'request');
  g.open();
  const nonce = await nextNonce();
  g.clock.trust = false;
  const first = request({ nonce });
  await cloud.side.publish(`${own}/request/evacuate`, first);
  await until('handed on', () => handed().length === 1);
  const replayed = request({ nonce });
  await cloud.side.publish(`${own}/request/evacuate`, replayed);
  expect(await codeOf(replayed.transaction)).toBe('clock_untrusted');
  const second = request({ nonce: await nextNonce() });
  await cloud.side.publish('stile/1/arena/_all/request/evacuate', second);
  expect(await codeOf(second.transaction)).toBe('clock_untrusted');
  expect(handed()).toHaveLength(1);
});

const request = (over: object = {}) => {
  const now = Date.now();
  return {
    schema: 1,
    transaction: randomUUID(),
    actor: 'op-7',
    reason: 'a test',
    issued_at: new Date(now).toISOString(),
    expires_at: new Date(now + 5_000).toISOString(),
    args: {},
    ...over,
  };
};

test('the uplink delivers each valid request once and answers every invalid one with the cause', async () => {
  const b = await broker();
  const retainedOnes = await peer(b.url);
  const left = request();
  await retainedOnes.publish(`${own}/request/open`, left, { qos: 1, retain: true });
  const g = gate(b.url);
  const cloud = await cloudOn(b, g.decider.epoch);
  const answer = async (transaction: string | null, command = 'open') => {
    const message = await cloud.side.wait(
      ({ topic, payload }) => topic === `${own}/response/${command}` && JSON.parse(payload.toString()).transaction === transaction,
    );
    cloud.side.received.splice(cloud.side.received.indexOf(message), 1);
    expect(parsePayload(ResponseMessage, message.payload).ok).toBe(true);
    return JSON.parse(message.payload.toString());
  };
  const handed = () => g.events.filter((event) => event.kind === 'request');
  g.open();
  expect(await answer(left.transaction)).toMatchObject({ status: 'error', error: { code: 'retained' } });
  await retainedOnes.publish(`${own}/request/open`, '', { qos: 1, retain: true });

  const good = request();
  await cloud.side.publish(`${own}/request/open`, good, { qos: 1, properties: { correlationData: Buffer.from('c-1') } });
  await until('handed on', () => handed().length === 1);
  const event = handed()[0];
  if (event?.kind !== 'request') throw new Error('no request');
  expect(event.command).toBe('open');
  expect(event.request.args).toEqual({ direction: 'in', units: 1 });
  event.respond({ status: 'ok', data: { opened: 1 } });
  event.respond({ status: 'ok', data: { opened: 2 } });
  const first = await cloud.side.wait(({ topic, payload }) => topic === `${own}/response/open` && payload.includes(good.transaction));
  expect(first.packet.properties?.correlationData?.toString()).toBe('c-1');
  expect(await answer(good.transaction)).toMatchObject({ status: 'ok', data: { opened: 1 } });

  await cloud.side.publish(`${own}/request/open`, good);
  expect(await answer(good.transaction)).toMatchObject({ error: { code: 'replayed' } });
  const live = request();
  await cloud.side.publish(`${own}/request/open`, live, { qos: 1, retain: true });
  expect(await answer(live.transaction)).toMatchObject({ error: { code: 'retained' } });
  const late = request({ issued_at: new Date(Date.now() - 6_000).toISOString(), expires_at: new Date(Date.now() - 1_000).toISOString() });
  await cloud.side.publish(`${own}/request/open`, late);
  expect(await answer(late.transaction)).toMatchObject({ error: { code: 'late' } });
  const long = request({ issued_at: new Date(Date.now() - 6_000).toISOString(), expires_at: new Date(Date.now() + 3_600_000).toISOString() });
  await cloud.side.publish(`${own}/request/open`, long);
  expect(await answer(long.transaction)).toMatchObject({ error: { code: 'late' } });
  const bad = request({ args: { units: 0 } });
  await cloud.side.publish(`${own}/request/open`, bad);
  expect(await answer(bad.transaction)).toMatchObject({ error: { code: 'malformed' } });
  await cloud.side.publish(`${own}/request/open`, 'not json');
  expect(await answer(null)).toMatchObject({ error: { code: 'malformed' } });
  await cloud.side.publish(`${own}/request/open`, JSON.stringify(request({ reason: 'x'.repeat(262_000) })));
  expect(await answer(null)).toMatchObject({ error: { code: 'malformed' } });
  const unknown = request();
  await cloud.side.publish(`${own}/request/self-destruct`, unknown);
  expect(await answer(unknown.transaction, 'self-destruct')).toMatchObject({ error: { code: 'unknown_command' } });
  g.clock.trust = false;
  const untimely = request();
  await cloud.side.publish(`${own}/request/open`, untimely);
  expect(await answer(untimely.transaction)).toMatchObject({ error: { code: 'clock_untrusted' } });
  g.clock.trust = true;
  expect(handed()).toHaveLength(1);

  const all = request({ expires_at: new Date(Date.now() + 30_000).toISOString(), args: { mode: 'locked' } });
  await cloud.side.publish('stile/1/arena/_all/request/mode', all);
  await until('handed on', () => handed().length === 2);
  await cloud.side.publish('stile/1/other/_all/request/mode', request({ args: { mode: 'free' } }));
  await cloud.side.publish('stile/1/arena/north-04/request/open', request());
  await new Promise((resolve) => setTimeout(resolve, 200));
  expect(handed()).toHaveLength(2);
  expect(g.decider.transactions.get(good.transaction)).toBe(Date.parse(good.expires_at));
});

test('measures the time in round trips, and asks for facts within a budget', async () => {
  const b = await broker();
  const late: unknown[] = [];
  const g = gate(b.url, { lateAnswer: (answer) => late.push(answer) });
  const cloud = await cloudOn(b, g.decider.epoch);
  expect(await g.uplink.ask([{ event_id: 'ev', ticket_ref: '0'.repeat(32) }], 100)).toBeNull();
  let delayMs = 0;
  void cloud.side
    .wait(({ topic, payload }) => {
      if (topic === `${own}/time`) {
        const { n, boot_id, sent_boottime_ms } = JSON.parse(payload.toString());
        const unix = Date.now() + 3_600_000;
        void cloud.side
          .publish(`${own}/time/${n}`, { schema: 1, n, boot_id, sent_boottime_ms, received_unix_ms: unix, answered_unix_ms: unix }, { qos: 0 })
          .catch(() => {});
        void cloud.side
          .publish(`${own}/time/${n}`, { schema: 1, n, boot_id, sent_boottime_ms, received_unix_ms: 0, answered_unix_ms: 0 }, { qos: 0 })
          .catch(() => {});
      }
      if (topic === `${own}/lookup`) {
        const { n } = JSON.parse(payload.toString());
        setTimeout(() => {
          void cloud.side.publish(`${own}/lookup/${n}`, { schema: 1, n, tickets: [] }).catch(() => {});
        }, delayMs);
      }
      return false;
    }, 60_000)
    .catch(() => {});
  g.open();
  await until('eight round trips', () => g.clock.samples.length >= 8);
  expect(g.clock.samples).toHaveLength(8);
  expect(Math.abs((g.clock.offset()?.offsetMs ?? 0) - (Date.now() - performance.now() + 3_600_000))).toBeLessThan(1_000);
  const refs = [{ event_id: 'ev', ticket_ref: '0'.repeat(32) }];
  expect(await g.uplink.ask(refs, 5_000)).toMatchObject({ tickets: [] });
  delayMs = 300;
  expect(await g.uplink.ask(refs, 50)).toBeNull();
  await until('the late answer', () => late.length === 1);
});

test("hands on peers' and the cloud's rows one at a time, never its own; wants and overlays too", async () => {
  const b = await broker();
  let working = 0;
  let most = 0;
  const seen: string[] = [];
  const g = gate(b.url);
  g.uplink.open(async (event) => {
    if (event.kind !== 'peer') {
      seen.push(event.kind);
      return;
    }
    working += 1;
    most = Math.max(most, working);
    await new Promise((resolve) => setTimeout(resolve, 5));
    working -= 1;
    seen.push(JSON.parse(Buffer.from(event.payload).toString()).gate);
  });
  await until('online', () => g.uplink.online());
  const side = await peer(b.url);
  const rows = (gate: string) => ({ schema: 1, gate, epoch: 1, entries: [{ seq: 1, kind: 'alarm', hash: '0'.repeat(64) }] });
  for (const name of ['arena/north-04', 'arena/cloud', GATE, 'elsewhere/north-04', 'arena/north-05']) await side.publish(`stile/1/${name}/ledger`, rows(name));
  await side.publish(`${own}/manifest/want`, { schema: 1, events: [] }, { qos: 1, retain: true });
  await side.publish(`${own}/overlay`, { schema: 1 });
  await side.publish(`stile/1/arena/north-04/overlay`, { schema: 1 });
  await side.publish(`${own}/ack`, 'rubbish');
  await until('all handed on', () => seen.length >= 6);
  await new Promise((resolve) => setTimeout(resolve, 200));
  expect(most).toBe(1);
  expect(seen.filter((what) => what.includes('/'))).toEqual(['arena/north-04', 'arena/cloud', 'arena/north-05']);
  expect(seen.filter((what) => !what.includes('/')).sort()).toEqual(['online', 'overlay', 'want']);
});

test.each([5, 4] as const)('asks again for the retained want, over MQTT version %i', async (version) => {
  const b = version === 5 ? await broker() : await brokerOf311();
  const { uplink, open, events } = gate(b.url);
  expect(await uplink.requestWant()).toBe(false);
  open();
  await until('online', () => uplink.online());
  expect(await uplink.requestWant()).toBe(false);
  const side = await peer(b.url, { clientId: 'cloud', protocolVersion: version });
  await side.publish(`${own}/manifest/want`, '{"schema":1,"events":[]}', { qos: 1, retain: true });
  const wants = () => events.filter(({ kind }) => kind === 'want').length;
  await until('offline reported', () => wants() === 1);
  expect(await uplink.requestWant()).toBe(true);
  expect(wants()).toBe(2);
});

test('a gate that the ACL does not name reports it, loses nothing, and sends its rows once the ACL names it', async () => {
  const b = await broker({ tls: true, acl: [] });
  const ca = b.ca;
  if (ca === null) throw new Error('no CA');
  const identity = await ca.issue(GATE);
  const g = gate(b.url, { ca: ca.ca, ...identity });
  const side = await peer(b.cloudUrl, { ca: ca.ca, ...ca.cloud, clientId: 'cloud' });
  const book = testCloud(g.decider.epoch);
  await side.subscribe('stile/1/#');
  g.decider.write(120);
  g.open();
  await until('online', () => g.uplink.online());
  await until('refused', () => g.logged.some((line) => line.includes('publishing ledger failed') && line.includes('135')));
  expect(g.decider.backlog()).toBe(120);
  expect(side.received).toEqual([]);
  await b.reload([{ gate: GATE, revoked: false }]);
  void side
    .wait(({ topic, payload }) => {
      if (topic !== `${own}/ledger`) return false;
      book.take(payload);
      void side.publish(`${own}/ack`, book.ack(), { qos: 1, retain: true }).catch(() => {});
      return false;
    }, 60_000)
    .catch(() => {});
  await until('all acknowledged', () => g.decider.backlog() === 0);
  expect(book.rows.size).toBe(120);

  // Without its certificate there is no connection, and the reason is said.
  const stranger = gate(b.url, { ca: ca.ca });
  stranger.open();
  await until('offline reported', () => stranger.events.some(({ kind }) => kind === 'offline'));
  const wrongCa = gate(b.url, { ca: ca.cloudCa, ...identity });
  wrongCa.open();
  await until('offline reported', () => wrongCa.events.some((event) => event.kind === 'offline' && event.fault.hint.includes('mqtt.ca')));
});

test('an unreadable key is a fault, not a crash', async () => {
  const b = await broker();
  const g = gate(b.url.replace('mqtt:', 'mqtts:'), { cert: 'rubbish', key: 'rubbish' });
  g.open();
  await until('offline reported', () => g.events.some((event) => event.kind === 'offline' && event.fault.hint !== ''));
  expect(g.uplink.online()).toBe(false);
});

test('two gates under one name reconnect with backoff and report the cause', async () => {
  const b = await broker();
  const first = gate(b.url);
  const second = gate(b.url);
  first.open();
  await until('online', () => first.uplink.online());
  second.open();
  await until('offline reported', () => first.events.some((event) => event.kind === 'offline' && event.fault.hint.includes('copied SD card')));
  await new Promise((resolve) => setTimeout(resolve, 2_000));
  // Their waits grow to 400 ms here (30 s in a venue): without that it would be hundreds.
  expect(first.events.filter(({ kind }) => kind === 'online').length).toBeLessThan(30);
});
