/** The database that the files make is the committed snapshot: from empty, applied again, and after a change taken back. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { freshDatabase } from '../../testkit/database.ts';
import { connectOwner, type OwnerConnection } from './database.ts';
import { MigrationError, migrate, SCHEMA_DIR } from './migrate.ts';
import { schemaFiles } from './schema-objects.ts';
import { SNAPSHOT_FILE, schemaSnapshot } from './testing/snapshot.ts';

const committed = readFileSync(SNAPSHOT_FILE, 'utf8').trim().split('\n');

/** Runs `work` on a new database with an owner's connection, and a copy of the schema's folder that it may change. */
async function scene(work: (owner: OwnerConnection, ownerUrl: string, dir: string) => Promise<void>): Promise<void> {
  const fresh = await freshDatabase();
  const owner = await connectOwner(fresh.ownerUrl);
  const dir = mkdtempSync(join(tmpdir(), 'stile-schema-'));
  for (const folder of ['migrations', 'functions', 'views', 'triggers']) cpSync(join(SCHEMA_DIR, folder), join(dir, folder), { recursive: true });
  try {
    await work(owner, fresh.ownerUrl, dir);
  } finally {
    await owner.close();
    rmSync(dir, { recursive: true });
    await fresh.drop();
  }
}

test('an empty database becomes the committed snapshot, and stays it when every file is applied again', () =>
  scene(async (owner, ownerUrl) => {
    expect(await schemaSnapshot(owner)).toEqual(committed);
    await owner.query("DELETE FROM schema_objects WHERE path NOT LIKE 'migrations/%'");
    expect(await migrate(ownerUrl)).toEqual([]);
    expect(await schemaSnapshot(owner)).toEqual(committed);
  }));

test('the snapshot tells every kind of difference', () =>
  scene(async (owner) => {
    for (const [change, kind] of [
      ['ALTER TABLE sites ALTER COLUMN name DROP DEFAULT', 'column'],
      ['ALTER TABLE tickets ALTER COLUMN tenant_id SET STATISTICS 100', 'column'],
      ['ALTER TABLE boots SET (fillfactor = 90)', 'table'],
      ['GRANT DELETE ON ledger_lines TO stile_service', 'table'],
      ['ALTER TABLE tickets NO FORCE ROW LEVEL SECURITY', 'table'],
      ['ALTER FUNCTION resolve_site(text) OWNER TO CURRENT_USER', 'function'],
      ['ALTER FUNCTION scan_ticket_atomic SET work_mem = 8192', 'function'],
      ['REVOKE EXECUTE ON FUNCTION resolve_site(text) FROM stile_service', 'function'],
      ["ALTER TYPE ticket_status RENAME VALUE 'sold' TO 'bought'", 'enum'],
      ['ALTER TYPE count_delta ADD ATTRIBUTE more integer', 'type'],
      ['CREATE OR REPLACE VIEW my_tickets WITH (security_invoker = true) AS SELECT t.* FROM ticket_overview t', 'view'],
      ['ALTER VIEW my_tickets RESET (security_invoker)', 'table'],
      ['ALTER TABLE tickets DISABLE TRIGGER ALL', 'trigger'],
      ['ALTER POLICY tenant_isolation ON sites USING (true)', 'policy'],
      ['CREATE INDEX one_more ON tickets (zone)', 'index'],
    ] as const) {
      await owner.query('BEGIN');
      await owner.query(change).catch((error: Error) => {
        // DISABLE TRIGGER ALL needs a superuser where a constraint has triggers: one of ours says the same.
        if (!change.includes('TRIGGER ALL')) throw new Error(`${change}: ${error.message}`);
      });
      if (change.includes('TRIGGER ALL')) {
        await owner.query('ROLLBACK');
        await owner.query('BEGIN');
        await owner.query('ALTER TABLE tickets DISABLE TRIGGER USER');
      }
      const lines = await schemaSnapshot(owner);
      const different = lines.filter((line) => !committed.includes(line)).concat(committed.filter((line) => !lines.includes(line)));
      expect([change, different.some((line) => line.startsWith(kind))]).toEqual([change, true]);
      await owner.query('ROLLBACK');
    }
  }));

test('every function of language SQL is right in itself, not only as a string', () =>
  scene(async (owner) => {
    const { rows } = await owner.query<{ def: string }>(
      "SELECT pg_get_functiondef(p.oid) AS def FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang WHERE p.pronamespace = 'public'::regnamespace AND p.prokind = 'f' AND l.lanname IN ('sql', 'plpgsql')",
    );
    expect(rows.length).toBeGreaterThan(150);
    await owner.query('BEGIN');
    await owner.query('SET LOCAL check_function_bodies = on');
    for (const { def } of rows) await owner.query(def);
    await expect(owner.query('CREATE FUNCTION planted() RETURNS text LANGUAGE sql AS $$ SELECT nothing FROM tickets $$')).rejects.toThrow('nothing');
    await owner.query('ROLLBACK');
  }));

test('a changed file is applied again, one that fails leaves nothing, and one that is gone must be dropped by a migration', () =>
  scene(async (owner, ownerUrl, dir) => {
    const file = join(dir, 'functions/tenancy/set_tenant_context.sql');
    const before = readFileSync(file, 'utf8');
    const lines: string[] = [];
    writeFileSync(file, before.replace('set_config(', 'pg_catalog.set_config('));
    await migrate(ownerUrl, { dir, onProgress: (line) => lines.push(line) });
    expect(lines.at(-1)).toContain('1 function');
    expect((await owner.query<{ src: string }>("SELECT prosrc AS src FROM pg_proc WHERE proname = 'set_tenant_context'")).rows[0]?.src).toContain('pg_catalog');
    writeFileSync(file, `${before}\nSELECT 1/0;\n`);
    await expect(migrate(ownerUrl, { dir })).rejects.toThrow('functions/tenancy/set_tenant_context.sql failed: division by zero');
    expect((await owner.query<{ src: string }>("SELECT prosrc AS src FROM pg_proc WHERE proname = 'set_tenant_context'")).rows[0]?.src).toContain('pg_catalog');
    rmSync(file);
    await expect(migrate(ownerUrl, { dir })).rejects.toThrow(/set_tenant_context\(uuid\).*drop it in a migration/);
    writeFileSync(join(dir, 'migrations/9000_drop.sql'), 'DROP FUNCTION set_tenant_context(uuid);');
    expect(await migrate(ownerUrl, { dir })).toEqual(['9000_drop']);
  }));

test('files say what they need: a missing requirement, a circle and two of one name are refused', () =>
  scene(async (_owner, _url, dir) => {
    expect(schemaFiles(dir).findIndex(({ name }) => name === 'ticket_overview')).toBeLessThan(schemaFiles(dir).findIndex(({ name }) => name === 'my_tickets'));
    const planted = join(dir, 'views/planted.sql');
    writeFileSync(planted, '-- requires: nothing_there\nCREATE OR REPLACE VIEW planted AS SELECT 1;\n');
    expect(() => schemaFiles(dir)).toThrow('requires nothing_there');
    writeFileSync(planted, '-- requires: planted\nCREATE OR REPLACE VIEW planted AS SELECT 1;\n');
    expect(() => schemaFiles(dir)).toThrow('requires itself');
    rmSync(planted);
    writeFileSync(join(dir, 'functions/vip/set_tenant_context.sql'), 'SELECT 1;');
    expect(() => schemaFiles(dir)).toThrow('one name');
  }));

test('a database that an unreleased version made is refused with a sentence', () =>
  scene(async (owner, ownerUrl) => {
    await owner.query('CREATE TABLE migration_hashes (name text PRIMARY KEY, sha256 text)');
    await expect(migrate(ownerUrl)).rejects.toThrow(MigrationError);
    await expect(migrate(ownerUrl)).rejects.toThrow('unreleased version of Stile: start with an empty one');
  }));
