/** B4: a cloud that was given both logins migrates an empty database by the owner's, and serves without it. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { connectOwner } from '../../cloud/db/database.ts';
import { type Broker, startBroker } from '../../testkit/broker.ts';
import { testPostgres } from '../../testkit/database.ts';
import { prepareDatabase } from '../../testkit/prepare-database.ts';
import { openStack, type Stack } from '../../testkit/stack.ts';

const NAME = 'stile_test_logins';
let dir: string;
let broker: Broker;
let stack: Stack;
beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'stile-logins-'));
  broker = await startBroker();
});
afterAll(async () => {
  await stack?.close();
  await broker?.stop();
  rmSync(dir, { recursive: true, force: true });
});

test('B4: all migrates an empty database by the owner, then no connection is the owner’s; commands work by the serving login', async () => {
  const { url } = await testPostgres();
  const { ownerUrl, servingUrl } = await prepareDatabase(url, NAME);
  stack = await openStack({ dir, databaseUrl: servingUrl, migrateUrl: ownerUrl, mqtt: { url: broker.url } });
  await stack.startCloud();
  const admin = await connectOwner(url);
  try {
    const { rows } = await admin.query<{ login: string }>(`SELECT DISTINCT usename AS login FROM pg_stat_activity WHERE datname = '${NAME}'`);
    expect(rows).toEqual([{ login: 'stile' }]);
  } finally {
    await admin.close();
  }
  await stack.cloud('event', 'put', 'concert', '--site', 'arena', '--name', 'Concert', '--ends', '2099-01-01T00:00Z', '--no-wait');
  await stack.cloud('assign', 'arena/north', 'concert', '--new', '--token-file', join(dir, 'token'));
  expect(await stack.cloud('gates')).toContain('arena/north');
  const wrong = await openStack({ dir, databaseUrl: ownerUrl, mqtt: { url: broker.url } });
  expect(await wrong.tryCloud('all')).toMatchObject({ code: 78, stderr: expect.stringContaining('stile_owner (DATABASE_URL) is the owner of the database') });
  await wrong.close();
});

test('B4: the unit gives the owner’s login to the step before the service alone', () => {
  const unit = readFileSync(join(import.meta.dirname, '../../systemd/stile-cloud.service'), 'utf8');
  expect(unit.match(/^ExecStart=.*$/gm)).toEqual(['ExecStart=/usr/bin/env -u STILE_MIGRATE_URL /opt/stile-cloud/bin/stile-cloud all']);
  expect(unit).toMatch(/^ExecStartPre=.*STILE_MIGRATE_URL.*stile-cloud migrate'$/m);
});
