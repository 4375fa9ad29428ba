import { cpSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type FreshDatabase, freshDatabase, makeVenue, type Venue } from '../../testkit/database.ts';
import { connectOwner, createDatabase, isTransient, sqlState } from './database.ts';
import { MigrationError, migrate, SCHEMA_DIR } from './migrate.ts';

let fresh: FreshDatabase;
let ours: Venue;
let theirs: Venue;
beforeAll(async () => {
  fresh = await freshDatabase();
  ours = await makeVenue(fresh.url, { tickets: 3 });
  theirs = await makeVenue(fresh.url, { tickets: 5 });
});
afterAll(() => fresh.drop());

test('a transaction sees its own tenant and runs as a role that owns nothing', async () => {
  const seen = await fresh.database.withTenant(ours.tenantId, async (client) => ({
    tickets: (await client.query<{ n: number }>('SELECT count(*) AS n FROM tickets')).rows[0]?.n,
    role: (await client.query<{ role: string }>('SELECT current_user AS role')).rows[0]?.role,
  }));
  expect(seen).toEqual({ tickets: 3, role: 'stile_service' });
  expect((await fresh.database.withTenant(theirs.tenantId, (client) => client.query<{ n: number }>('SELECT count(*) AS n FROM tickets'))).rows[0]?.n).toBe(5);
});

test('a reused connection takes neither tenant nor role to the next user', async () => {
  const one = createDatabase({ url: fresh.servingUrl, maxConnections: 1 });
  try {
    await one.withTenant(ours.tenantId, (client) => client.query('SELECT 1'));
    await expect(
      one.withTenant(ours.tenantId, async () => {
        throw new Error('planted');
      }),
    ).rejects.toThrow('planted');
    const after = await one.withoutTenant((client) =>
      client.query<{ n: number; tenant: string | null }>('SELECT count(*) AS n, current_tenant_id() AS tenant FROM tickets'),
    );
    expect(after.rows[0]).toEqual({ n: 0, tenant: null });
    expect((await one.asOwner((client) => client.query<{ role: string }>('SELECT current_user AS role'))).rows[0]?.role).not.toBe('stile_service');
  } finally {
    await one.close();
  }
});

test('work that throws leaves nothing behind, and a tenant that is no UUID is refused before any SQL', async () => {
  await expect(
    fresh.database.withTenant(ours.tenantId, async (client) => {
      await client.query("UPDATE tickets SET note = 'planted'");
      throw new Error('planted');
    }),
  ).rejects.toThrow('planted');
  expect((await fresh.database.withTenant(ours.tenantId, (client) => client.query('SELECT 1 FROM tickets WHERE note IS NOT NULL'))).rowCount).toBe(0);
  await expect(fresh.database.withTenant("x'; DROP TABLE tickets; --", async () => 1)).rejects.toThrow('a tenant id is a UUID');
});

test('errors say by their code whether another try may help', async () => {
  const duplicate = await fresh.database
    .withTenant(ours.tenantId, (client) => client.query('INSERT INTO sites (tenant_id, site_id) VALUES ($1, $2)', [ours.tenantId, ours.site]))
    .catch((error: unknown) => error);
  expect([sqlState(duplicate), isTransient(duplicate)]).toEqual(['23505', false]);
  const away = createDatabase({ url: 'postgres://nobody@127.0.0.1:1/none' });
  const refused = await away.withoutTenant((client) => client.query('SELECT 1')).catch((error: unknown) => error);
  expect([sqlState(refused), isTransient(refused)]).toEqual([null, true]);
  await away.close();
});

test('X6: a server that was demoted is passing, and its connection is given up', async () => {
  const demoted = await freshDatabase();
  const name = new URL(demoted.url).pathname.slice(1);
  const one = createDatabase({ url: demoted.servingUrl, maxConnections: 1 });
  try {
    const pid = async () => (await one.withoutTenant((client) => client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid'))).rows[0]?.pid;
    await demoted.database.asOwner((client) => client.query(`ALTER DATABASE ${name} SET default_transaction_read_only = on`));
    const before = await pid();
    const refused = await one
      .withoutTenant((client) => client.query("INSERT INTO quarantine (topic, reason, payload_sha256, payload_bytes) VALUES ('t', 'failed', '', 0)"))
      .catch((error: unknown) => error);
    expect([sqlState(refused), isTransient(refused)]).toEqual(['25006', true]);
    expect(await pid()).not.toBe(before);
  } finally {
    await one.close();
    await demoted.drop();
  }
});

/** Copies what `migrate` reads, so that a test can add to it. */
function copySchema(dir: string): void {
  for (const folder of ['migrations', 'functions', 'views', 'triggers']) cpSync(join(SCHEMA_DIR, folder), join(dir, folder), { recursive: true });
}

test('migrations land once, in order, and a landed file may not change', async () => {
  expect(await migrate(fresh.ownerUrl)).toEqual([]);
  const dir = mkdtempSync(join(tmpdir(), 'stile-migrations-'));
  copySchema(dir);
  writeFileSync(join(dir, 'migrations', '9000_more.sql'), 'CREATE TABLE more (id integer);');
  const lines: string[] = [];
  // Two at once: one of them lands it.
  const both = await Promise.all([migrate(fresh.ownerUrl, { dir, onProgress: (line) => lines.push(line) }), migrate(fresh.ownerUrl, { dir })]);
  expect(both.flat()).toEqual(['9000_more']);
  writeFileSync(join(dir, 'migrations', '9000_more.sql'), 'CREATE TABLE more (id bigint);');
  await expect(migrate(fresh.ownerUrl, { dir })).rejects.toThrow(MigrationError);
  await expect(migrate(fresh.ownerUrl)).rejects.toThrow('older than the database');
  writeFileSync(join(dir, 'migrations', '9000_more.sql'), 'CREATE TABLE more (id integer);');
  writeFileSync(join(dir, 'migrations', '8000_before.sql'), 'CREATE TABLE before (id integer);');
  await expect(migrate(fresh.ownerUrl, { dir })).rejects.toThrow('preceding');
  writeFileSync(join(dir, 'migrations', 'loose.sql'), '');
  await expect(migrate(fresh.ownerUrl, { dir })).rejects.toThrow('NNNN_words.sql');
});

test('a migration that fails leaves no trace', async () => {
  const other = await freshDatabase();
  const dir = mkdtempSync(join(tmpdir(), 'stile-migrations-'));
  copySchema(dir);
  writeFileSync(join(dir, 'migrations', '9000_half.sql'), 'CREATE TABLE half (id integer); SELECT 1/0;');
  await expect(migrate(other.ownerUrl, { dir })).rejects.toThrow('division by zero');
  const owner = await connectOwner(other.url);
  expect((await owner.query<{ half: string | null }>("SELECT to_regclass('half') AS half")).rows[0]?.half).toBeNull();
  await owner.close();
  await other.drop();
});
