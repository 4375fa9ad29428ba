/** What the schema promises other programs, and what later migrations need of it. */
import { expect, test } from 'vitest';
import { freshDatabase } from '../../testkit/database.ts';
import { connectOwner } from './database.ts';

/**
 * Functions with a parsed body (BEGIN ATOMIC, RETURN) that depend on rows: the type of a table's or view's row (or an array of it, or a
 * composite type) in their arguments, result or body, or a table that the body reads.
 */
const PARSED_BODIES = `
SELECT DISTINCT p.oid::regprocedure::text AS name FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
  LEFT JOIN pg_type t ON d.refclassid = 'pg_type'::regclass AND t.oid = d.refobjid LEFT JOIN pg_type e ON e.oid = t.typelem
WHERE p.pronamespace = 'public'::regnamespace AND p.prosqlbody IS NOT NULL AND (d.refclassid = 'pg_class'::regclass OR t.typrelid <> 0 OR e.typrelid <> 0) ORDER BY 1`;

test('B1: functions with a parsed body depend on no rows: PostgreSQL would not let a later migration alter the table', async () => {
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
