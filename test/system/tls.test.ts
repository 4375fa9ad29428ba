/** The whole behind TLS, client certificates and the generated ACL, as a venue runs it; and a device that lies about who it is. */
import type { IClientOptions } from 'mqtt';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Identity, TestCa } from '../../deploy/mosquitto/test-ca.ts';
import type { GateProcess } from '../../testkit/gate-process.ts';
import { connectPeer } from '../../testkit/mqtt-client.ts';
import { enter, eventually, openVenue, type Row, ready, show, type Venue } from './environment.ts';

const NOT_AUTHORIZED = 135;

let venue: Venue;
let north: GateProcess;
let south: GateProcess;
let ca: TestCa;

beforeAll(async () => {
  venue = await openVenue({ tls: true });
  [north, south] = venue.gates as [GateProcess, GateProcess];
  ca = venue.broker.ca as TestCa;
});
afterAll(() => venue?.close());

const as = (identity: Identity, options: IClientOptions = {}): IClientOptions => ({ ca: ca.ca, cert: identity.cert, key: identity.key, ...options });

/** A chain of one grant for a ticket nobody has used, as if `gate` had written it. */
const forgedBy = (gate: string, row: Row | undefined) => ({
  schema: 1,
  gate,
  epoch: (row?.epoch ?? 1) + 1,
  entries: [{ ...row?.entry, seq: 1, hash: '0'.repeat(64) }],
});

test('over TLS with certificates and ACLs a guest is admitted, refused at the second gate, and stands in Postgres', async () => {
  expect(north.status()?.uplink.url).toMatch(/^mqtts:/);
  const ticket = venue.ticket();
  await enter(north, ticket);
  await eventually('the second gate to be idle', async () => ready(await south.fresh()));
  expect(await show(south, ticket.code)).toMatchObject({ kind: 'refused', words: expect.stringContaining('gate north') });
  const rows = (await venue.settled()).filter(({ entry }) => entry['ticket_id'] === ticket.ticketId);
  expect(rows.map(({ gate, kind }) => [gate, kind])).toEqual([
    [north.gate, 'grant'],
    [north.gate, 'passage'],
    [south.gate, 'refusal'],
  ]);
  // Acknowledged as well: the way back is open too.
  for (const gate of venue.gates) await eventually(`acks at ${gate.gate}`, async () => (await gate.fresh()).ledger.backlog === 0);
  const { code, stdout } = await venue.stack.tryCloud('request', north.gate, 'open', '--actor', 'staff-1', '--reason', 'wheelchair', '--json');
  expect([code, JSON.parse(stdout)]).toMatchObject([0, { status: 'ok' }]);
});

test('B5: a suspended gate is closed inwards and free outwards, and resume takes it back', async () => {
  const staff = ['--actor', 'staff-1', '--reason', 'looks tampered with'];
  const modes = async () => {
    const { in: inward, out } = (await north.fresh()).modes;
    return [inward.mode, out.mode];
  };
  const before = await modes();
  await venue.stack.cloud('gate', 'suspend', north.gate, ...staff);
  expect(await modes()).toEqual(['locked', 'free']);
  await venue.stack.cloud('gate', 'resume', north.gate, ...staff);
  expect([before[0], await modes()]).toEqual(['controlled', before]);
});

test("a gate that publishes in another's name is refused by the broker, and nothing of it reaches anybody", async () => {
  const before = await venue.settled();
  const quarantined = await venue.ask('SELECT * FROM quarantine');
  const row = before.find(({ kind }) => kind === 'grant');
  venue.spy.received.length = 0;
  // South's own key in an imposter's hands, with every name that it may try.
  await south.stop();
  const imposter = await connectPeer(venue.broker.url, as(await ca.issue(south.gate), { clientId: north.gate, username: north.gate }));
  for (const rest of ['ledger', 'state', 'health', 'alert/fire', 'response/open'])
    expect(await imposter.publish(`stile/1/${north.gate}/${rest}`, forgedBy(north.gate, row)), rest).toBe(NOT_AUTHORIZED);
  for (const topic of ['stile/1/arena/cloud/ledger', `stile/1/${north.gate}/request/open`, `stile/1/${north.gate}/ack`, 'stile/1/arena/_all/request/open'])
    expect(await imposter.publish(topic, forgedBy('arena/cloud', row)), topic).toBe(NOT_AUTHORIZED);
  // Under its own topic, in another's name: the broker cannot know, the cloud does.
  expect(await imposter.publish(`stile/1/${south.gate}/ledger`, forgedBy(north.gate, row))).toBe(0);
  const found = await eventually('the lie to be put away', async () => {
    const rows = await venue.ask<{ reason: string; topic: string }>('SELECT reason, topic FROM quarantine');
    return rows.length > quarantined.length && rows;
  });
  expect(found.slice(quarantined.length)).toEqual([{ reason: 'mismatch', topic: `stile/1/${south.gate}/ledger` }]);
  await imposter.end();

  expect(north.running() && (await north.fresh()).uplink.online).toBe(true);
  await enter(north, venue.ticket());
  await south.start();
  await eventually('the gate to be back', async () => ready(await south.fresh()));
  const after = await venue.settled();
  // The second gate's own epoch may be the forged one, for epochs begin with the second of the clock.
  expect(after.filter(({ gate, epoch }) => gate === north.gate && epoch === (row?.epoch ?? 0) + 1)).toEqual([]);
  expect(after.filter(({ hash }) => hash === '0'.repeat(64))).toEqual([]);
  const heardOfImposter = venue.spy.received.filter(({ payload }) => payload.includes('0'.repeat(64)));
  expect(heardOfImposter.map(({ topic }) => topic)).toEqual([`stile/1/${south.gate}/ledger`]);
});

test('no certificate, a stranger and a revoked gate get nothing into the account', async () => {
  const before = await venue.settled();
  const row = before.find(({ kind }) => kind === 'grant');
  await expect(connectPeer(venue.broker.url, { ca: ca.ca })).rejects.toThrow();
  // Signed by the right authority, but nobody enrolled it: no line in the ACL.
  const stranger = await connectPeer(venue.broker.url, as(await ca.issue('arena/west')));
  expect(await stranger.publish('stile/1/arena/west/ledger', forgedBy('arena/west', row))).toBe(NOT_AUTHORIZED);
  await stranger.end();
  // In the ACL by mistake, and still unknown to the cloud.
  await venue.broker.reload([...venue.gates.map(({ gate }) => gate), 'arena/west'].map((gate) => ({ gate, revoked: false })));
  const enlisted = await connectPeer(venue.broker.url, as(await ca.issue('arena/west')));
  expect(await enlisted.publish('stile/1/arena/west/ledger', forgedBy('arena/west', row))).toBe(0);
  await eventually('the stranger to be put away', async () => (await venue.ask("SELECT 1 FROM quarantine WHERE reason = 'unknown_device'")).length > 0);
  await enlisted.end();
  await venue.stack.cloud('gate', 'revoke', south.gate, '--yes', south.gate);
  await venue.broker.reload(venue.gates.map(({ gate }) => ({ gate, revoked: gate === south.gate })));
  // It decides alone, as every gate does whose link is down, and nobody hears of it.
  expect((await show(south, venue.ticket().code)).kind).toBe('granted');
  await enter(north, venue.ticket());
  await eventually(
    'the rows of the gate that is left',
    async () => (await venue.stored(north.gate)).length >= before.filter(({ gate }) => gate === north.gate).length + 2,
  );
  expect(await venue.stored(south.gate)).toHaveLength(before.filter(({ gate }) => gate === south.gate).length);
  expect((await venue.stored()).some(({ gate }) => gate === 'arena/west')).toBe(false);
});
