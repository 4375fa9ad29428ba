import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type FreshDatabase, freshDatabase, makeVenue, type Venue } from '../../testkit/database.ts';
import { createLog } from '../log.ts';
import { ensureDevice, renewToken, revokeDevice } from './assignment.ts';
import { createBrokerRightsWatch } from './broker-rights-watch.ts';

let fresh: FreshDatabase;
let venue: Venue;
const folder = mkdtempSync(join(tmpdir(), 'stile-rights-'));
beforeAll(async () => {
  fresh = await freshDatabase();
  venue = await makeVenue(fresh.url);
});
afterAll(async () => {
  await fresh.drop();
  rmSync(folder, { recursive: true });
});

test('B6: each change of who may speak at the broker changes the file, and nothing else does', async () => {
  const file = join(folder, 'broker-rights');
  const watch = createBrokerRightsWatch({ database: fresh.database, log: createLog({ level: 'silent', name: 'test' }), file, pollMs: 10 });
  await watch.open();
  const changed = async (from: string) => {
    for (;;) {
      const now = readFileSync(file, 'utf8');
      if (now !== from) return now;
      await new Promise((done) => setTimeout(done, 10));
    }
  };
  const act = (work: Parameters<typeof fresh.database.withTenant>[1]) => fresh.database.withTenant(venue.tenantId, work);
  const first = readFileSync(file, 'utf8');
  await act((client) => ensureDevice(client, venue.tenantId, `${venue.site}/new-1`));
  const second = await changed(first);
  await act((client) => revokeDevice(client, `${venue.site}/new-1`));
  const third = await changed(second);
  // A new token changes no right.
  await act((client) => renewToken(client, venue.gates[0] as string));
  await new Promise((done) => setTimeout(done, 100));
  expect(readFileSync(file, 'utf8')).toBe(third);
  expect(new Set([first, second, third]).size).toBe(3);
  await watch.close();
});

test('a machine without a broker of ours is left alone', async () => {
  const watch = createBrokerRightsWatch({ database: fresh.database, log: createLog({ level: 'silent', name: 'test' }), file: join(folder, 'nowhere/file') });
  await watch.open();
  await watch.close();
});
