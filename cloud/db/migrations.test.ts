/** From an empty database, and from every state that an earlier version left: the same database in the end, with everything that was in it. */
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { freshDatabase, makeVenue, testPostgres } from '../../testkit/database.ts';
import { loginsOf, prepareDatabase } from '../../testkit/prepare-database.ts';
import { connectOwner, createDatabase } from './database.ts';
import { MIGRATIONS_DIR, migrate, migrationFiles } from './migrate.ts';

/** Everything that a migration can make, as text. Columns by name: a column that came later stands later. */
const FINGERPRINT = `
SELECT md5(string_agg(line, E'\\n' ORDER BY line COLLATE "C")) AS hash FROM (
  SELECT format('column %s %s %s %s %s', a.attrelid::regclass, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid)) AS line
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND a.attnum > 0 AND NOT a.attisdropped
  UNION ALL SELECT format('constraint %s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) FROM pg_constraint WHERE connamespace = 'public'::regnamespace
  UNION ALL SELECT format('index %s', indexdef) FROM pg_indexes WHERE schemaname = 'public'
  UNION ALL SELECT format('function %s %s %s', p.oid::regprocedure, md5(pg_get_functiondef(p.oid)), pg_get_userbyid(p.proowner) = 'stile_resolver') FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace AND p.prokind = 'f'
  UNION ALL SELECT format('trigger %s', pg_get_triggerdef(oid)) FROM pg_trigger WHERE NOT tgisinternal
  UNION ALL SELECT format('policy %s %s %s %s', polrelid::regclass, polname, pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)) FROM pg_policy
  UNION ALL SELECT format('table %s %s %s %s %s', c.oid::regclass, c.relkind, c.relrowsecurity, c.relforcerowsecurity, (SELECT string_agg(x.grantee::regrole::text || ' ' || x.privilege_type, ',' ORDER BY 1) FROM aclexplode(c.relacl) AS x WHERE x.grantee = 'stile_service'::regrole)) FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v')
) AS everything`;

test('every earlier state becomes what an empty database becomes, and keeps its rows', { timeout: 600_000 }, async () => {
  const adminUrl = (await testPostgres()).url;
  const admin = await connectOwner(adminUrl);
  const files = [...migrationFiles().keys()];
  expect(files.length).toBeGreaterThan(10);
  const fingerprints = new Map<string, unknown>();
  // One that lands file after file; every state is a copy of it.
  const grown = `stile_test_grown_${process.pid}`;
  const dir = mkdtempSync(join(tmpdir(), 'stile-migrations-'));
  // By the owner, who is no superuser: what hides rows from it must not hide them from a migration.
  const { ownerUrl: grownUrl } = await prepareDatabase(adminUrl, grown);
  try {
    for (let landed = 0; landed <= files.length; landed++) {
      const name = `stile_test_state_${process.pid}_${landed}`;
      const { ownerUrl: url, servingUrl } = loginsOf(adminUrl, name);
      const newest = files[landed - 1];
      if (newest !== undefined) {
        copyFileSync(join(MIGRATIONS_DIR, `${newest}.sql`), join(dir, `${newest}.sql`));
        expect(await migrate(grownUrl, { dir })).toEqual([newest]);
      }
      await admin.query(`CREATE DATABASE ${name} OWNER stile_owner TEMPLATE ${grown}`);
      try {
        const venue = landed > 0 ? await makeVenue(url, { tickets: 3 }) : null;
        expect(await migrate(url)).toEqual(files.slice(landed));
        expect(await migrate(url)).toEqual([]);
        const owner = await connectOwner(url);
        fingerprints.set(`${landed} landed before`, (await owner.query<{ hash: string }>(FINGERPRINT)).rows[0]?.hash);
        await owner.close();
        if (venue === null) continue;
        // What was there lives on, and by the new rules.
        const database = createDatabase({ url: servingUrl, maxConnections: 1 });
        try {
          const seen = await database.withTenant(venue.tenantId, async (client) => {
            await client.query("UPDATE tickets SET status = 'revoked' WHERE ticket_id = 'T-2'");
            const scans = await client.query<{ allowed: boolean; reason: string | null }>(
              "SELECT s.allowed, s.reason FROM (VALUES ('T-1'), ('T-2')) AS t (id) CROSS JOIN LATERAL scan_ticket_atomic(t.id) AS s ORDER BY t.id",
            );
            // 0002 copied what was there before it.
            expect((await client.query('SELECT version FROM event_policies')).rowCount).toBe(1);
            return [scans.rows, (await client.query('SELECT ticket_id, status, vip, is_transferable FROM tickets ORDER BY 1')).rows];
          });
          const common = { vip: false, is_transferable: true };
          expect(seen).toEqual([
            [
              { allowed: true, reason: null },
              { allowed: false, reason: 'revoked' },
            ],
            [
              { ticket_id: 'T-1', status: 'checked_in', ...common },
              { ticket_id: 'T-2', status: 'revoked', ...common },
              { ticket_id: 'T-3', status: 'sold', ...common },
            ],
          ]);
        } finally {
          await database.close();
        }
      } finally {
        await admin.query(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`);
      }
    }
  } finally {
    rmSync(dir, { recursive: true });
    await admin.query(`DROP DATABASE IF EXISTS ${grown} WITH (FORCE)`);
    await admin.close();
  }
  expect([...fingerprints].filter(([, hash]) => hash !== fingerprints.get('0 landed before'))).toEqual([]);
  expect(fingerprints.size).toBe(files.length + 1);
});

/**
 * Functions with a parsed body (BEGIN ATOMIC, RETURN) that depend on rows: the type of a table's or view's row (or an array of it, or a
 * composite type) in their arguments, result or body, or a table that the body reads.
 */
const PARSED_BODIES = `
SELECT DISTINCT p.oid::regprocedure::text AS name FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
  LEFT JOIN pg_type t ON d.refclassid = 'pg_type'::regclass AND t.oid = d.refobjid LEFT JOIN pg_type e ON e.oid = t.typelem
WHERE p.pronamespace = 'public'::regnamespace AND p.prosqlbody IS NOT NULL AND (d.refclassid = 'pg_class'::regclass OR t.typrelid <> 0 OR e.typrelid <> 0) ORDER BY 1`;

test('B1: no function with a parsed body depends on rows: PostgreSQL would not let a later migration alter the table', async () => {
  const fresh = await freshDatabase();
  const owner = await connectOwner(fresh.ownerUrl);
  try {
    const found = async () => (await owner.query<{ name: string }>(PARSED_BODIES)).rows.map(({ name }) => name);
    expect(await found()).toEqual([]);
    await owner.query('BEGIN');
    for (const [head, body] of [
      ['planted_argument(t tickets) RETURNS text', 'RETURN t.ticket_id'],
      ['planted_array(t tickets[]) RETURNS integer', 'RETURN cardinality(t)'],
      ['planted_body() RETURNS text', 'RETURN (SELECT min(t.ticket_id) FROM tickets t)'],
      ['planted_composite(d count_delta) RETURNS integer', 'RETURN 1'],
      ['planted_result() RETURNS SETOF events', 'BEGIN ATOMIC SELECT * FROM events; END'],
      ['planted_view() RETURNS text', 'RETURN (SELECT min(m.tenant_id::text) FROM my_tickets m)'],
      ['harmless(a integer) RETURNS integer', 'RETURN a + 1'],
      ['a_string(t tickets) RETURNS text', 'AS $$ SELECT t.ticket_id $$'],
    ])
      await owner.query(`CREATE FUNCTION ${head} LANGUAGE sql STABLE ${body}`);
    expect((await found()).map((name) => name.split('(')[0])).toEqual([
      'planted_argument',
      'planted_array',
      'planted_body',
      'planted_composite',
      'planted_result',
      'planted_view',
    ]);
    await owner.query('ROLLBACK');
  } finally {
    await owner.close();
    await fresh.drop();
  }
});

/** What programs written for the forerunner call, by name. */
const KNOWN_FUNCTIONS = [
  'acquire_idempotency_key',
  'can_check_in_ticket',
  'check_duplicate_scan',
  'check_vip_linked_ticket_reentry',
  'cleanup_expired_idempotency_keys',
  'clear_tenant_context',
  'complete_idempotency_key',
  'confirm_transaction',
  'create_pending_transaction',
  'current_tenant_id',
  'fail_transaction',
  'get_pending_transaction_status',
  'get_ticket_state_history',
  'get_ticket_transfer_history',
  'has_pending_transaction',
  'log_tenant_violation',
  'log_ticket_status_change',
  'log_ticket_status_change_manual',
  'process_vip_scan_with_reentry',
  'record_scan_attempt',
  'release_idempotency_lock',
  'release_ticket_availability',
  'reset_vip_test_state',
  'scan_ticket_atomic',
  'set_tenant_context',
  'sync_offline_scan',
  'ticket_status_change_trigger',
  'update_ticket_availability_on_reservation',
  'update_user_events_attended',
  'update_user_ticket_stats',
  'verify_tenant_context',
];

test('every function has its known name, once, and the service may call it', async () => {
  const fresh = await freshDatabase();
  const owner = await connectOwner(fresh.url);
  try {
    const { rows } = await owner.query<{ name: string; times: number; callable: boolean }>(
      "SELECT proname AS name, count(*) AS times, bool_and(has_function_privilege('stile_service', oid, 'EXECUTE')) AS callable FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname = ANY ($1) GROUP BY 1 ORDER BY 1",
      [KNOWN_FUNCTIONS],
    );
    expect(rows).toEqual(KNOWN_FUNCTIONS.map((name) => ({ name, times: 1, callable: true })));
  } finally {
    await owner.close();
    await fresh.drop();
  }
});
