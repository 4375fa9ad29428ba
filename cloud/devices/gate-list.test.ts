/** What operators are told of a gate's presence, by its last words. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { GatesResponse } from '../../contract/http.ts';
import { type FreshDatabase, freshDatabase, makeVenue, type Venue } from '../../testkit/database.ts';
import { revokeDevice } from './assignment.ts';
import { listGates } from './gate-list.ts';

let fresh: FreshDatabase;
let venue: Venue;
beforeAll(async () => {
  fresh = await freshDatabase();
  venue = await makeVenue(fresh.url, { tickets: 0, gates: ['north'] });
});
afterAll(() => fresh.drop());

const CONNECTED = '2026-05-01T12:00:00.000Z';
const ago = (seconds: number | null) => (seconds === null ? null : new Date(Date.now() - seconds * 1000));
/** Stores the last state and health of the one gate, received that long ago. */
async function presence(state: 'online' | 'offline' | null, stateAgoS: number | null, healthAgoS: number | null) {
  const [words, health] = [state === null ? null : { state, since: CONNECTED }, healthAgoS === null ? null : { mode: 'controlled', backlog: 0 }];
  return fresh.database.withTenant(venue.tenantId, async (client) => {
    await client.query('UPDATE devices SET state = $1, state_at = $2, health = $3, health_at = $4', [words, ago(stateAgoS), health, ago(healthAgoS)]);
    const { gates } = await listGates(client);
    expect(GatesResponse.safeParse({ success: true, gates }).success).toBe(true);
    return gates[0];
  });
}
const since = (seconds: number) => (at: string | null | undefined) => Math.abs(Date.now() - seconds * 1000 - Date.parse(at ?? '')) < 5_000;

test.each<[string, 'online' | 'offline' | null, number | null, number | null, string, number | null]>([
  ['just connected, no word on its health yet', 'online', 5, null, 'online', null],
  ['connected long ago, and speaks', 'online', 50_000, 20, 'online', null],
  ['the broker died with it: it says online, and says nothing', 'online', 50_000, 600, 'offline', 600],
  ['the same, and it never said how it is', 'online', 700, null, 'offline', 700],
  ['its will came a while after its last word', 'offline', 60, 95, 'offline', 95],
  ['its will came anew with a restart of the cloud', 'offline', 2, 7_200, 'offline', 7_200],
  ['never seen', null, null, null, 'never_seen', null],
])('T15: %s', async (_, state, stateAgoS, healthAgoS, shown, sinceS) => {
  const gate = await presence(state, stateAgoS, healthAgoS);
  expect(gate?.state).toBe(shown);
  if (sinceS !== null) expect(gate?.since).toSatisfy(since(sinceS));
  else expect(gate?.since).toBe(shown === 'online' ? CONNECTED : null);
});

test('T15: a revoked gate is shown as revoked, whatever it says', async () => {
  await presence('online', 5, 5);
  await fresh.database.withTenant(venue.tenantId, (client) => revokeDevice(client, venue.gates[0] as string));
  const gate = await presence('online', 1, 1);
  expect(gate).toMatchObject({ state: 'revoked', revoked: true });
  expect(gate?.since).toSatisfy(since(0));
});

test('X5: the worst of all gates are on the first page, the cut is said, and the pages hold every gate once', async () => {
  await presence('online', 5, 5);
  await fresh.database.withTenant(venue.tenantId, async (client) => {
    await client.query(
      `INSERT INTO devices (tenant_id, name, site_id, gate_id, enrolled_at, state, state_at, health, health_at)
       SELECT current_tenant_id(), $1 || '/g' || n, $1, 'g' || n, now(), '{"state": "online"}', now(), '{}', now() FROM generate_series(1, 5200) AS n`,
      [venue.site],
    );
    await client.query("UPDATE devices SET health_at = now() - interval '1 hour', state_at = now() - interval '1 hour' WHERE name IN ($1, $2)", [
      `${venue.site}/g7`,
      `${venue.site}/g99`,
    ]);
    await client.query(
      "INSERT INTO devices (tenant_id, name, site_id, gate_id, enrolled_at) VALUES (current_tenant_id(), $1 || '/zz-last', $1, 'zz-last', now())",
      [venue.site],
    );
    await client.query("INSERT INTO device_alerts (tenant_id, device, alert_id, alert) VALUES (current_tenant_id(), $1, 'stuck', '{}')", [
      `${venue.site}/g999`,
    ]);
  });
  const page = (cursor?: string, limit?: number) =>
    fresh.database.withTenant(venue.tenantId, (client) => listGates(client, { cursor, ...(limit === undefined ? {} : { limit }) }));
  const first = await page();
  expect(first).toMatchObject({ total: 5_202, next: expect.any(String) });
  expect(first.gates).toHaveLength(5_000);
  expect(first.gates.slice(0, 4).map(({ gate, state }) => [gate.split('/')[1], state])).toEqual([
    ['g999', 'online'],
    ['g7', 'offline'],
    ['g99', 'offline'],
    ['zz-last', 'never_seen'],
  ]);
  const names: string[] = [];
  for (let cursor: string | null | undefined; cursor !== null; ) {
    const { gates, next } = await page(cursor, 900);
    names.push(...gates.map(({ gate }) => gate));
    cursor = next;
  }
  expect(names).toHaveLength(5_202);
  expect(new Set(names).size).toBe(5_202);
});
