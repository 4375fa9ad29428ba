/** Commands over the wire: good ones are done once and recorded, late, replayed, retained and malformed ones are refused in so many words. */
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { GateProcess } from '../../testkit/gate-process.ts';
import { enter, eventually, logOf, openVenue, openWires, ready, type Venue, type Wires } from './environment.ts';

interface Response {
  readonly transaction: string | null;
  readonly status: 'ok' | 'error';
  readonly error?: { readonly code: string; readonly message: string };
  readonly data?: Readonly<Record<string, unknown>>;
}

let venue: Venue;
let gate: GateProcess;
let wires: Wires;

beforeAll(async () => {
  venue = await openVenue({ gates: ['north'] });
  [gate] = venue.gates as [GateProcess];
  await gate.until(({ clock }) => clock.trusted, 90_000);
  wires = await openWires(gate);
});
afterAll(async () => {
  wires?.close();
  await venue?.close();
});

const topic = (command: string) => `stile/1/${gate.gate}/request/${command}`;
const iso = (afterMs: number) => new Date(Date.now() + afterMs).toISOString();
const envelope = (more: Readonly<Record<string, unknown>> = {}) => ({
  schema: 1,
  transaction: randomUUID(),
  actor: 'staff-17',
  reason: 'wheelchair',
  issued_at: iso(0),
  expires_at: iso(5_000),
  args: { direction: 'in', units: 1 },
  ...more,
});

/** Waits for the gate's next answer on this command's topic. */
async function answerTo(command: string, send: () => Promise<unknown>): Promise<Response> {
  venue.spy.received.length = 0;
  await send();
  const heard = await venue.spy.wait((message) => message.topic === `stile/1/${gate.gate}/response/${command}`);
  return JSON.parse(heard.payload.toString()) as Response;
}
const request = (body: string | object, command = 'open', how: { retain?: boolean } = {}) =>
  answerTo(command, () => venue.spy.publish(topic(command), body, { qos: 1, retain: how.retain === true }));
const overrides = async () => (await venue.stored()).filter(({ kind }) => kind === 'override');
const idle = () => eventually('an idle lane', async () => ready(await gate.fresh()));

test('a good open opens the lane once, and stands in Postgres with who and why; the same again is refused', async () => {
  let body = envelope();
  let response = await request(body);
  // A request lives for seconds: on a busy machine one may come too late, and is refused as it must be.
  while (response.error?.code === 'late') {
    body = envelope();
    response = await request(body);
  }
  expect(response).toMatchObject({ transaction: body.transaction, status: 'ok', data: { direction: 'in', units: 1 } });
  await eventually('the passage', async () => (await venue.stored()).some(({ kind }) => kind === 'passage'));
  expect(wires.releases()).toBe(1);
  const rows = await venue.settled();
  const override = rows.find(({ kind }) => kind === 'override');
  expect(override?.entry).toMatchObject({ action: 'open', actor: 'staff-17', reason: 'wheelchair', units: 1, transaction: body.transaction });
  expect(rows.find(({ kind }) => kind === 'passage')?.entry).toMatchObject({ of: [override?.epoch, override?.seq, override?.hash], outcome: 'passed' });
  expect(response.data?.['row']).toEqual([override?.epoch, override?.seq]);

  expect(await request(body)).toMatchObject({ transaction: body.transaction, status: 'error', error: { code: 'replayed' } });
  await idle();
  expect(wires.releases()).toBe(1);
});

test('late, retained, malformed and unknown requests are refused by name, and the lane stays shut', async () => {
  await idle();
  const releases = wires.releases();
  const recorded = (await overrides()).length;
  const code = (response: Response) => (response.status === 'ok' ? 'done' : response.error?.code);
  expect(code(await request(envelope({ issued_at: iso(-20_000), expires_at: iso(-15_000) })))).toBe('late');
  // However long it says that it lives.
  expect(code(await request(envelope({ issued_at: iso(-20_000), expires_at: iso(3_600_000) })))).toBe('late');
  expect(code(await request(envelope({ issued_at: iso(60_000), expires_at: iso(65_000) })))).toBe('malformed');
  expect(await request('open, please')).toMatchObject({ transaction: null, status: 'error', error: { code: 'malformed' } });
  const { actor: _actor, ...nobody } = envelope();
  expect(await request(nobody)).toMatchObject({ error: { code: 'malformed', message: expect.stringContaining('actor') } });
  expect(code(await request(envelope({ args: { direction: 'up' } })))).toBe('malformed');
  expect(code(await request(envelope({ args: { units: 10_000 } })))).toBe('malformed');
  expect(code(await request(envelope({ schema: 2 })))).toBe('malformed');
  expect(code(await request(envelope(), 'explode'))).toBe('unknown_command');

  const kept = envelope();
  expect(await request(kept, 'open', { retain: true })).toMatchObject({ transaction: kept.transaction, error: { code: 'retained' } });
  await sleep(300);
  expect(wires.releases()).toBe(releases);
  await venue.settled();
  expect(await overrides()).toHaveLength(recorded);
});

test('a request that stands retained when a gate comes up, and one that was replayed over its restart, are refused', async () => {
  // A mode lives for 30 s: longer than the restart takes.
  const done = envelope({ expires_at: iso(30_000), args: { mode: 'controlled' } });
  expect(await request(done, 'mode')).toMatchObject({ status: 'ok' });
  const standing = envelope();
  expect(await request(standing, 'open', { retain: true })).toMatchObject({ error: { code: 'retained' } });
  await gate.kill();
  wires.close();
  const again = await answerTo('open', () => gate.start());
  wires = await openWires(gate);
  expect(again).toMatchObject({ transaction: standing.transaction, status: 'error', error: { code: 'retained' } });
  await venue.spy.publish(topic('open'), '', { qos: 1, retain: true });
  await gate.until(({ clock, uplink }) => clock.trusted && uplink.online, 90_000);
  expect(await request(done, 'mode')).toMatchObject({ transaction: done.transaction, status: 'error', error: { code: 'replayed' } });
  expect(wires.releases()).toBe(0);
});

test('an empty want of anybody takes no ticket away, and refresh puts the right one in its place', async () => {
  await idle();
  const want = `stile/1/${gate.gate}/manifest/want`;
  const held = (await gate.fresh()).manifests;
  expect(held).toHaveLength(1);
  await venue.spy.publish(want, { schema: 1, events: [] }, { qos: 1, retain: true });
  await eventually('the gate to say so', () => logOf(gate.logFile).includes('stays in force'));
  expect((await gate.fresh()).manifests).toEqual(held);
  await enter(gate, venue.ticket());
  // Also one that comes up with it in the broker.
  await gate.kill();
  await gate.start();
  await gate.until(({ uplink }) => uplink.online, 90_000);
  await enter(gate, venue.ticket());
  wires.close();
  wires = await openWires(gate);

  venue.spy.received.length = 0;
  await gate.until(({ clock }) => clock.trusted, 90_000);
  const asked = await venue.stack.tryCloud('request', gate.gate, 'refresh', '--actor', 'staff-9', '--reason', 'an empty list was published', '--json');
  expect(asked.code, asked.stderr).toBe(0);
  await eventually('the right want', () =>
    venue.spy.received.some(({ topic: at, payload }) => at === want && (JSON.parse(payload.toString()) as { events: unknown[] }).events.length === 1),
  );
  expect((await gate.fresh()).manifests).toMatchObject([{ event_id: held[0]?.event_id }]);
});

test('stile-cloud request opens a lane, brings the answer, and says by its exit code when the gate refuses or is away', async () => {
  await idle();
  const releases = wires.releases();
  const ask = (...args: string[]) => venue.stack.tryCloud('request', gate.gate, ...args, '--actor', 'staff-9', '--reason', 'school class');
  const opened = await ask('open', '--arg', 'units=2', '--json');
  expect(opened.code, opened.stderr).toBe(0);
  expect(JSON.parse(opened.stdout)).toMatchObject({ status: 'ok', data: { units: 2 } });
  await eventually('two releases', () => wires.releases() === releases + 2);
  await idle();
  expect((await ask('mode', '--arg', 'mode=locked')).code).toBe(0);
  const refused = await ask('open');
  expect(refused.code).toBe(1);
  expect(refused.stdout + refused.stderr).toMatch(/locked/);
  expect((await ask('mode', '--arg', 'mode=controlled')).code).toBe(0);
  expect((await ask('open', '--arg', 'direction=up')).code).toBe(2);
  const rows = await venue.settled();
  const last = rows.filter(({ kind }) => kind === 'override').map(({ entry }) => [entry['action'], entry['actor'], entry['reason']]);
  expect(last).toEqual(expect.arrayContaining([['open', 'staff-9', 'school class']]));
  await gate.stop();
  const away = await ask('open');
  expect(away.code).toBe(75);
  expect(away.stderr).toContain('did not answer');
});
