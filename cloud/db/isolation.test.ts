/** No tenant sees another: every table and view that there is, by every route. Tables that are added later are in it by themselves. */
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type FreshDatabase, freshDatabase } from '../../testkit/database.ts';
import { connectOwner, createDatabase, type DatabaseClient, type OwnerConnection, sqlState } from './database.ts';

/** Of the installation, not of a tenant; and migrations' own. */
const WITHOUT_TENANT = ['database_lives', 'migrations', 'schema_objects', 'signing_keys', 'tenants'];

let fresh: FreshDatabase;
let owner: OwnerConnection;
const [ours, theirs, nobody] = [randomUUID(), randomUUID(), randomUUID()];
let tables: string[] = [];
let views: string[] = [];

const names = async (sql: string): Promise<string[]> => (await owner.query<{ name: string }>(sql)).rows.map(({ name }) => name);

beforeAll(async () => {
  fresh = await freshDatabase();
  owner = await connectOwner(fresh.url);
  tables = await names(
    "SELECT c.oid::regclass::text AS name FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relnamespace = 'public'::regnamespace ORDER BY 1",
  );
  views = await names(
    "SELECT c.oid::regclass::text AS name FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' WHERE c.relkind = 'v' AND c.relnamespace = 'public'::regnamespace ORDER BY 1",
  );
  await fill();
});
afterAll(async () => {
  await owner.close();
  await fresh.drop();
});

/** One row of each tenant in every table, whatever its columns mean: checks, keys and triggers are taken away in this database alone. */
async function fill(): Promise<void> {
  await owner.query("SET session_replication_role = 'replica'");
  for (const { tab, name } of (
    await owner.query<{ tab: string; name: string }>(
      "SELECT conrelid::regclass::text AS tab, conname AS name FROM pg_constraint WHERE contype = 'c' AND conparentid = 0 AND conislocal AND connamespace = 'public'::regnamespace",
    )
  ).rows)
    await owner.query(`ALTER TABLE ${tab} DROP CONSTRAINT IF EXISTS "${name}"`);
  for (const table of tables) {
    const { rows } = await owner.query<{ name: string; type: string; label: string | null }>(
      `SELECT quote_ident(a.attname) AS name, format_type(a.atttypid, NULL) AS type, (SELECT e.enumlabel FROM pg_enum e WHERE e.enumtypid = a.atttypid ORDER BY e.enumsortorder LIMIT 1) AS label
       FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
       WHERE a.attrelid = $1::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull AND a.attidentity = '' AND a.attgenerated = '' AND (d.oid IS NULL OR a.attname = 'tenant_id') ORDER BY a.attnum`,
      [table],
    );
    for (const tenant of [ours, theirs]) {
      const columns = rows.some(({ name }) => name === 'tenant_id') ? rows : [{ name: 'tenant_id', type: 'uuid', label: null }, ...rows];
      const values = columns.map(({ name, type, label }) =>
        name === 'tenant_id' ? `'${tenant}'::uuid` : label === null ? sample(type, tenant) : `'${label}'`,
      );
      await owner.query(`INSERT INTO ${table} (${columns.map(({ name }) => name).join(', ')}) VALUES (${values.join(', ')})`);
    }
  }
  // For the views of one person.
  await owner.query(
    "UPDATE tickets SET user_id = 'ann'; UPDATE events SET site_id = tenant_id::text; UPDATE venues SET site_id = tenant_id::text, owner_user_id = 'ann'",
  );
  await owner.query("SET session_replication_role = 'origin'");
}

function sample(type: string, tenant: string): string {
  if (type === 'uuid') return `'${randomUUID()}'::uuid`;
  if (type === 'text' || type.startsWith('character')) return `'${tenant}'`;
  if (type === 'bytea') return `sha256('${tenant}')`;
  if (type === 'jsonb') return "'{}'";
  if (type === 'boolean') return 'false';
  if (type.startsWith('timestamp')) return 'now()';
  if (/^(bigint|integer|smallint|numeric|double precision)$/.test(type)) return '1';
  if (type.endsWith('multirange') || type.endsWith('[]')) return "'{}'";
  throw new Error(`say in this test what a ${type} may look like`);
}

test('every table has forced row security, by its tenant; every view looks with its reader’s eyes; the service owns nothing', async () => {
  expect(tables.length).toBeGreaterThan(60);
  const bare = `SELECT c.oid::regclass::text AS name FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
    WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace AND NOT (c.relrowsecurity AND c.relforcerowsecurity AND EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid)
      AND NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND (pg_get_expr(p.polqual, p.polrelid) NOT LIKE '%tenant_id%current_tenant_id()%' OR pg_get_expr(p.polwithcheck, p.polrelid) NOT LIKE '%tenant_id%current_tenant_id()%')))`;
  expect(await names(bare)).toEqual([]);
  expect(
    await names(
      "SELECT c.relname AS name FROM pg_class c WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id') ORDER BY 1",
    ),
  ).toEqual(WITHOUT_TENANT);
  const blind =
    "SELECT c.relname AS name FROM pg_class c WHERE c.relkind IN ('v', 'm') AND c.relnamespace = 'public'::regnamespace AND NOT coalesce(c.reloptions @> '{security_invoker=true}', false)";
  expect(await names(blind)).toEqual([]);
  const owned =
    "SELECT relname AS name FROM pg_class WHERE relowner = 'stile_service'::regrole UNION ALL SELECT proname FROM pg_proc WHERE proowner = 'stile_service'::regrole UNION ALL SELECT typname FROM pg_type WHERE typowner = 'stile_service'::regrole UNION ALL SELECT nspname FROM pg_namespace WHERE nspowner = 'stile_service'::regrole";
  expect(await names(owned)).toEqual([]);
  expect((await owner.query("SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = 'stile_service'")).rows).toEqual([
    { rolsuper: false, rolbypassrls: false, rolcreaterole: false, rolcreatedb: false },
  ]);
  // What row security does not hold back.
  expect(
    await names(
      "SELECT c.relname AS name FROM pg_class c WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace AND has_table_privilege('stile_service', c.oid, 'TRUNCATE, TRIGGER, REFERENCES')",
    ),
  ).toEqual([]);
  // Functions that see more than their caller belong to the resolver, find only what they name, and are the service's alone.
  const definers = "SELECT p.proname AS name FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace AND p.prosecdef";
  expect((await names(definers)).length).toBeGreaterThan(5);
  expect(
    await names(
      `${definers} AND (p.proowner <> 'stile_resolver'::regrole OR NOT coalesce(p.proconfig::text LIKE '%search_path=public, pg_temp%', false) OR has_function_privilege('public', p.oid, 'EXECUTE'))`,
    ),
  ).toEqual([]);
  expect((await owner.query("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'stile_resolver'")).rows).toEqual([{ rolcanlogin: false }]);

  // The checks find what they are for.
  await owner.query(
    'BEGIN; CREATE TABLE planted_bare (tenant_id uuid); CREATE TABLE planted_open (tenant_id uuid); ALTER TABLE planted_open ENABLE ROW LEVEL SECURITY; ALTER TABLE planted_open FORCE ROW LEVEL SECURITY; CREATE POLICY all_see ON planted_open USING (true) WITH CHECK (true); CREATE VIEW planted_view AS SELECT * FROM tickets; ALTER TABLE planted_open OWNER TO stile_service',
  );
  expect([(await names(bare)).toSorted(), await names(blind), (await names(owned)).includes('planted_open')]).toEqual([
    ['planted_bare', 'planted_open'],
    ['planted_view'],
    true,
  ]);
  await owner.query('ROLLBACK');
  if (process.env['FIGURES'] !== undefined)
    console.log(
      `\nfigure: ${tables.length} tables with forced row security, 0 owned by the service; planted open table, bare table, view and owner: all found`,
    );
});

test('every table and view shows own rows only: none without a tenant, none as another, none on a used connection', { timeout: 120_000 }, async () => {
  const one = createDatabase({ url: fresh.servingUrl, maxConnections: 1 });
  const tenantsIn = async (tenant: string | null, name: string) => {
    const work = async (client: DatabaseClient) => {
      await client.query("SELECT set_config('app.current_user_id', 'ann', true)");
      return client.query<{ tenant_id: string }>(`SELECT tenant_id FROM ${name}`);
    };
    const { rows } = tenant === null ? await one.withoutTenant(work) : await one.withTenant(tenant, work);
    return rows.map(({ tenant_id }) => tenant_id);
  };
  const hidden: string[] = [];
  try {
    for (const name of [...tables, ...views]) {
      try {
        // One connection for all: what the one before set is gone.
        expect([name, await tenantsIn(ours, name)]).toEqual([name, [ours]]);
        expect([name, await tenantsIn(null, name)]).toEqual([name, []]);
        expect([name, await tenantsIn(nobody, name)]).toEqual([name, []]);
        expect([name, await tenantsIn(theirs, name)]).toEqual([name, [theirs]]);
      } catch (error) {
        if (sqlState(error) !== '42501') throw error;
        hidden.push(name);
      }
    }
  } finally {
    await one.close();
  }
  expect(hidden).toEqual([]);
  if (process.env['FIGURES'] !== undefined)
    console.log(`\nfigure: ${tables.length} tables and ${views.length} views × {no tenant, own, another tenant, on one used pool connection}: 0 foreign rows`);
});

test('a tenant changes, removes and adds no row of another', { timeout: 120_000 }, async () => {
  const count = async (table: string) => (await owner.query<{ n: number }>(`SELECT count(*) AS n FROM ${table} WHERE tenant_id = $1`, [theirs])).rows[0]?.n;
  for (const table of tables) {
    const before = await count(table);
    for (const sql of [`UPDATE ${table} SET tenant_id = tenant_id WHERE tenant_id = '${theirs}'`, `DELETE FROM ${table} WHERE tenant_id = '${theirs}'`]) {
      const touched = await fresh.database
        .withTenant(ours, (client) => client.query(sql))
        .then(
          ({ rowCount }) => rowCount,
          (error: unknown) => sqlState(error),
        );
      expect([table, sql.slice(0, 6), [0, '42501'].includes(touched as never)]).toEqual([table, sql.slice(0, 6), true]);
    }
    // Our row in their name. What a trigger or a key refuses first is refused as well.
    const given = await fresh.database
      .withTenant(ours, (client) => client.query(`UPDATE ${table} SET tenant_id = '${theirs}'`))
      .then(
        ({ rowCount }) => `went: ${rowCount}`,
        (error: unknown) => sqlState(error),
      );
    expect([table, given]).not.toEqual([table, expect.stringContaining('went')]);
    expect([table, await count(table)]).toEqual([table, before]);
  }
  if (process.env['FIGURES'] !== undefined)
    console.log(`\nfigure: ${tables.length} tables × {update, delete, give away} of another tenant's rows: 0 rows touched`);
});

test('B4: the owner of the tables is no superuser and sees nothing without a tenant either; the login that serves may act as the service alone', {
  timeout: 120_000,
}, async () => {
  const logins = await owner.query(
    "SELECT rolname AS login, rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb AS strong, (SELECT string_agg(m.roleid::regrole::text, ' ' ORDER BY m.roleid::regrole::text) FROM pg_auth_members m WHERE m.member = r.oid) AS member_of FROM pg_roles r WHERE rolname IN ('stile', 'stile_owner') ORDER BY 1",
  );
  expect(logins.rows).toEqual([
    { login: 'stile', strong: false, member_of: 'stile_service' },
    { login: 'stile_owner', strong: false, member_of: 'stile_resolver stile_service' },
  ]);
  expect(
    await names(
      "SELECT relname AS name FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relowner <> 'stile_owner'::regrole UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proowner NOT IN ('stile_owner'::regrole, 'stile_resolver'::regrole)",
    ),
  ).toEqual([]);
  const tablesOwner = await connectOwner(fresh.ownerUrl);
  const serving = await connectOwner(fresh.servingUrl);
  try {
    for (const name of tables) {
      const seen = async (tenant: string) => {
        await tablesOwner.query(`BEGIN; SELECT set_config('app.current_tenant_id', '${tenant}', true)`);
        const { rows } = await tablesOwner.query<{ tenant_id: string }>(`SELECT tenant_id FROM ${name}`);
        await tablesOwner.query('ROLLBACK');
        return rows.map(({ tenant_id }) => tenant_id);
      };
      expect([name, await seen(''), await seen(ours), await seen(nobody)]).toEqual([name, [], [ours], []]);
      // By itself, without acting as the service, it may not even look.
      await expect(serving.query(`SELECT 1 FROM ${name}`), name).rejects.toThrow('permission denied');
    }
    for (const role of ['stile_owner', 'stile_resolver', 'postgres'])
      await expect(serving.query(`SET ROLE ${role}`), role).rejects.toThrow('permission denied');
    await expect(serving.query('CREATE TABLE of_its_own (id integer)')).rejects.toThrow('permission denied');
    await expect(serving.query("SET ROLE stile_service; SELECT detach_ledger_rows('2001-01-01')")).rejects.toThrow('permission denied');
    await expect(serving.query("SELECT unpublished_ledger_rows('2001-01-01')")).rejects.toThrow('permission denied');
    if (process.env['FIGURES'] !== undefined)
      console.log(`\nfigure: ${tables.length} tables seen by their owner × {no tenant, another tenant}: 0 foreign rows`);
  } finally {
    await serving.close();
    await tablesOwner.close();
  }
});
