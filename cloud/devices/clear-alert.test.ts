import { afterAll, beforeAll, expect, test } from 'vitest';
import { type FreshDatabase, freshDatabase, makeVenue } from '../../testkit/database.ts';
import { clearAlert } from './clear-alert.ts';

let fresh: FreshDatabase;
beforeAll(async () => {
  fresh = await freshDatabase();
});
afterAll(() => fresh.drop());

test("what the cloud raised is cleared by somebody and for a reason; a gate's own alert and another tenant's stay", async () => {
  const [venue, other] = [await makeVenue(fresh.url), await makeVenue(fresh.url)];
  const [gate] = venue.gates as [string];
  for (const { tenantId, gates } of [venue, other])
    await fresh.database.withTenant(tenantId, (client) =>
      client.query(
        "INSERT INTO device_alerts (tenant_id, device, alert_id, by_cloud, alert) VALUES ($1, $2, 'clone', true, '{}'), ($1, $2, 'disk', false, '{}')",
        [tenantId, gates[0]],
      ),
    );
  const clear = (alert: string, of = gate) =>
    fresh.database.withTenant(venue.tenantId, (client) => clearAlert(client, { gate: of, alert, actor: 's-17', reason: 'card was swapped' }));
  expect(await clear('disk')).toBe(false);
  expect(await clear('clone', other.gates[0])).toBe(false);
  expect(await clear('clone')).toBe(true);
  expect(await clear('clone')).toBe(false);
  const ask = async (tenantId: string, sql: string) => (await fresh.database.withTenant(tenantId, (client) => client.query(sql))).rows;
  expect(await ask(venue.tenantId, 'SELECT alert_id FROM device_alerts')).toEqual([{ alert_id: 'disk' }]);
  expect(await ask(other.tenantId, 'SELECT alert_id FROM device_alerts ORDER BY 1')).toHaveLength(2);
  expect(await ask(venue.tenantId, 'SELECT device, alert_id, actor, reason FROM cleared_alerts')).toEqual([
    { device: gate, alert_id: 'clone', actor: 's-17', reason: 'card was swapped' },
  ]);
});
