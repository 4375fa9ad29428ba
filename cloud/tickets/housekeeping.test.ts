/** What is kept for a time goes when its time is over, and not before; what people must be told is handed out, and settled. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type FreshDatabase, freshDatabase, makeVenue } from '../../testkit/database.ts';
import { createTestHttp } from '../../testkit/http.ts';
import { asTenant } from '../../testkit/tenant-session.ts';
import { newToken, OPERATOR_TOKEN_PREFIX } from '../devices/assignment.ts';
import { SILENT } from '../log.ts';
import { createHousekeeping } from './housekeeping.ts';
import { registerNotificationRoutes } from './notification-routes.ts';

let fresh: FreshDatabase;
beforeAll(async () => {
  fresh = await freshDatabase();
});
afterAll(() => fresh.drop());

test('old keys of scans and old notifications go, of every tenant; young ones stay, whoever asks', async () => {
  const venues = [await makeVenue(fresh.url), await makeVenue(fresh.url)];
  for (const venue of venues) {
    const { rows, value } = asTenant(fresh.database, venue);
    for (const days of [1, 365, 399, 401, 1_000])
      await rows(
        "INSERT INTO device_scans (tenant_id, device, scan_key, online, gate, epoch, seq, result, scanned_at, received_at) VALUES ($1, $2, $3, false, $2, 1, $4::integer, 'ALLOW', now(), now() - make_interval(days => $4::integer))",
        [venue.tenantId, venue.gates[0], `id ${days}`, days],
      );
    await rows(
      "INSERT INTO ticket_notifications (tenant_id, kind, created_at, sent_at) SELECT $1, 'k' || d, now() - make_interval(days => d), CASE WHEN d > 30 THEN now() END FROM unnest('{1,29,31,90}'::int[]) AS d",
      [venue.tenantId],
    );
    // The service itself cannot take a young key away.
    await rows('DELETE FROM device_scans');
    expect(await value('SELECT array_agg(seq::integer ORDER BY seq) FROM device_scans')).toEqual([1, 365, 399]);
    for (const days of [401, 1_000])
      await rows(
        "INSERT INTO device_scans (tenant_id, device, scan_key, online, gate, epoch, seq, result, scanned_at, received_at) VALUES ($1, $2, $3, false, $2, 1, $4::integer, 'ALLOW', now(), now() - make_interval(days => $4::integer))",
        [venue.tenantId, venue.gates[0], `id ${days}`, days],
      );
  }
  const housekeeping = createHousekeeping({ database: fresh.database, log: SILENT });
  expect(await housekeeping.run()).toBe(8);
  expect(await housekeeping.run()).toBe(0);
  for (const venue of venues) {
    const { value } = asTenant(fresh.database, venue);
    expect(await value('SELECT array_agg(seq::integer ORDER BY seq) FROM device_scans')).toEqual([1, 365, 399]);
    expect(await value('SELECT array_agg(kind ORDER BY kind) FROM ticket_notifications')).toEqual(['k1', 'k29']);
  }
  await housekeeping.close();
});

test('a scan of more than a year ago is not taken any more: its key would be forgotten before a repeat', async () => {
  const venue = await makeVenue(fresh.url);
  const { rows } = asTenant(fresh.database, venue);
  const sync = (days: number) => rows("SELECT status, message FROM sync_offline_scan('T-1', now() - make_interval(days => $2), $1)", [venue.gates[0], days]);
  expect(await sync(367)).toMatchObject([{ status: 'ERROR', message: expect.stringContaining('set the scanner') }]);
  expect(await sync(365)).toMatchObject([{ status: 'SUCCESS' }]);
});

test('notifications are taken once, settled as told, or come due again', async () => {
  const venue = await makeVenue(fresh.url);
  const { rows, value } = asTenant(fresh.database, venue);
  const made = newToken(OPERATOR_TOKEN_PREFIX);
  await rows("INSERT INTO operator_tokens (tenant_id, token_sha256, name) VALUES ($1, $2, 'mailer')", [venue.tenantId, made.sha256]);
  await rows(
    "INSERT INTO ticket_notifications (tenant_id, kind, user_id, detail) SELECT $1, 'transfer_offered', 'u-' || n, '{\"transfer_id\": 1}' FROM generate_series(1, 5) AS n",
    [venue.tenantId],
  );
  const app = await createTestHttp(fresh.database);
  registerNotificationRoutes(app, { database: fresh.database });
  const post = async (url: string, payload: object) => {
    const answer = await app.inject({ method: 'POST', url, headers: { authorization: `Bearer ${made.token}` }, payload });
    return {
      status: answer.statusCode,
      ...(answer.json() as { notifications?: { id: number; kind: string; attempts: number }[]; settled?: number; message?: string }),
    };
  };
  const takes = await Promise.all([post('/notifications/take', { at_most: 3 }), post('/notifications/take', { at_most: 3 })]);
  const taken = takes.flatMap(({ notifications }) => notifications ?? []);
  expect(taken.map(({ id }) => id).toSorted((a, b) => a - b)).toEqual([...new Set(taken.map(({ id }) => id))].toSorted((a, b) => a - b));
  expect([taken.length, taken[0]?.kind, taken[0]?.attempts]).toEqual([5, 'transfer_offered', 1]);
  expect((await post('/notifications/take', {})).notifications).toEqual([]);
  expect(await post('/notifications/settle', { ids: taken.slice(0, 4).map(({ id }) => id) })).toMatchObject({ status: 200, settled: 4 });
  expect(await post('/notifications/settle', { ids: [taken[4]?.id], failure: 'mailbox full' })).toMatchObject({ settled: 1 });
  expect(await value('SELECT count(*) FROM ticket_notifications WHERE sent_at IS NULL AND due_at > now() AND last_error IS NOT NULL')).toBe(1);
  await rows('UPDATE ticket_notifications SET due_at = now() WHERE sent_at IS NULL');
  expect((await post('/notifications/take', {})).notifications).toMatchObject([{ id: taken[4]?.id, attempts: 2 }]);
  expect(await post('/notifications/settle', { ids: [] })).toMatchObject({ status: 400, message: 'ids: must have at least 1 entries' });
  await app.close();
});
