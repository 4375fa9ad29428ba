/** A reservation with its passes and a linked ticket, from Postgres to the turnstile and back into the audit trail. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { GateProcess } from '../../testkit/gate-process.ts';
import { EVENT, enter, eventually, newCode, openVenue, SITE, show, type Ticket, type Venue } from './environment.ts';

const SCANNER = `${SITE}/desk`;
let venue: Venue;
let gate: GateProcess;
let reservation = '';
let host: Ticket;
let guest: Ticket;
let linked: Ticket;

/** Does something to the reservation, and waits until the gate has what the cloud then has. */
async function changed<T>(sql: string, values: readonly unknown[]): Promise<T[]> {
  const [event] = await venue.ask<{ tenant_id: string }>('SELECT tenant_id FROM events');
  const { rows } = await venue.database.database.withTenant(event?.tenant_id as string, (client) => client.query<T>(sql, [...values]));
  const [after] = await venue.ask<{ version: string }>('SELECT version FROM events');
  await eventually(
    'the gate to have the change',
    async () => (await gate.fresh()).manifests.some(({ overlay_version }) => overlay_version >= Number(after?.version)),
    90_000,
  );
  return rows as T[];
}
async function issuePass(forHost: boolean): Promise<Ticket> {
  const code = newCode();
  const [event] = await venue.ask<{ salt: Buffer }>('SELECT salt FROM events');
  const ref = createHash('sha256')
    .update(event?.salt as Buffer)
    .update(code, 'utf8')
    .digest()
    .subarray(0, 16);
  const [pass] = await changed<{ ticket_id: string }>('SELECT ticket_id FROM issue_vip_pass($1, $2, $3)', [reservation, ref, forHost]);
  return { ticketId: pass?.ticket_id as string, code };
}
const logs = async (ticketId: string) => {
  await venue.settled();
  return venue.ask<{ scan_type: string; had_before: boolean; gate: string }>(
    'SELECT scan_type, previous_entry_at IS NOT NULL AS had_before, gate FROM vip_scan_logs WHERE ticket_id = $1 ORDER BY scanned_at, id',
    [ticketId],
  );
};
const counted = async () => (await venue.ask('SELECT status, checked_in_guests FROM vip_reservations'))[0];

/** A refused code is the same presentation while its red shows. */
const lampsOut = () => eventually('the red to go out', async () => (await gate.fresh()).signals.in === 'ready');

beforeAll(async () => {
  venue = await openVenue({ gates: ['north'], tickets: 4 });
  gate = venue.gates[0] as GateProcess;
  const [event] = await venue.ask<{ tenant_id: string }>('SELECT tenant_id FROM events');
  const [made] = await changed<{ reservation_id: string }>(
    "INSERT INTO vip_reservations (tenant_id, event_id, label, guest_count) VALUES ($1, $2, 'Table 4', 3) RETURNING reservation_id",
    [event?.tenant_id, EVENT],
  );
  reservation = made?.reservation_id as string;
  host = await issuePass(true);
  guest = await issuePass(false);
  linked = venue.ticket();
  await changed('INSERT INTO vip_linked_tickets (tenant_id, event_id, ticket_id, reservation_id) VALUES ($1, $2, $3, $4)', [
    event?.tenant_id,
    EVENT,
    linked.ticketId,
    reservation,
  ]);
});
afterAll(() => venue?.close());

test('before it is confirmed a pass opens nothing; then host, guest and linked ticket go in and come again without limit', async () => {
  expect((await show(gate, host.code)).words).toContain('not paid');
  await lampsOut();
  await changed('SELECT set_vip_reservation_status($1, $2)', [reservation, 'confirmed']);
  for (const ticket of [host, guest, linked]) {
    expect((await enter(gate, ticket)).words).toMatch(/^admitted, VIP/);
    for (let again = 0; again < 3; again++) expect((await enter(gate, ticket)).words).toMatch(/^admitted again, VIP, last entry \d\d:\d\d/);
  }
  for (const ticket of [host, guest, linked]) {
    const entries = (await logs(ticket.ticketId)).filter(({ scan_type }) => scan_type !== 'refused');
    expect(entries).toEqual([
      { scan_type: 'first_entry', had_before: false, gate: gate.gate },
      ...Array.from({ length: 3 }, () => ({ scan_type: 'reentry', had_before: true, gate: gate.gate })),
    ]);
  }
  // Re-entry changes no status; a linked ticket is nobody's pass.
  expect(await counted()).toEqual({ status: 'checked_in', checked_in_guests: 2 });
  expect(await venue.ask('SELECT ticket_id, status::text FROM tickets WHERE vip ORDER BY ticket_id')).toEqual(
    [host, guest, linked].map(({ ticketId }) => ({ ticket_id: ticketId, status: 'checked_in' })).sort((a, b) => (a.ticket_id < b.ticket_id ? -1 : 1)),
  );
  expect(await venue.ask('SELECT count(*)::int AS n FROM conflicts')).toEqual([{ n: 0 }]);
});

test('an online scan knows of the entries at the gate, shows the last, and is in the same audit trail', async () => {
  const tokenFile = join(venue.dir, 'desk.token');
  await venue.stack.cloud('gate', 'add', SCANNER, '--scanner', '--token-file', tokenFile);
  await venue.stack.cloud('assign', SCANNER, EVENT, '--no-wait');
  const response = await fetch(`${venue.stack.cloudUrl}/scan`, {
    method: 'POST',
    headers: { authorization: `Bearer ${readFileSync(tokenFile, 'utf8').trim()}`, 'content-type': 'application/json' },
    body: JSON.stringify({ device_id: SCANNER, event_id: EVENT, scan_id: 'vip-1', code: host.code }),
  });
  expect(await response.json()).toMatchObject({ result: 'ALLOW', type: 'reentry', vip: true, last_entry_at: expect.stringMatching(/^\d{4}-/) });
  expect((await logs(host.ticketId)).filter(({ scan_type }) => scan_type === 'reentry')).toHaveLength(4);
});

test('when the reservation is over, so is the right, with its words; refusals are in the audit trail as well', async () => {
  await lampsOut();
  await changed('SELECT set_vip_reservation_status($1, $2)', [reservation, 'completed']);
  for (const [ticket, words] of [
    [host, /was valid until \d\d:\d\d/],
    [guest, /was valid until/],
    [linked, /already used at \d\d:\d\d, gate north/],
  ] as const) {
    const { kind, words: told } = await show(gate, ticket.code);
    expect([kind, told]).toEqual(['refused', expect.stringMatching(words)]);
    expect((await logs(ticket.ticketId)).at(-1)).toMatchObject({ scan_type: 'refused', had_before: true, gate: gate.gate });
    await lampsOut();
  }
  expect(await venue.ask('SELECT reason FROM vip_scan_logs WHERE scan_type = $1 ORDER BY id', ['refused'])).toEqual([
    { reason: 'unpaid' },
    { reason: 'invalid_time' },
    { reason: 'invalid_time' },
    { reason: 'already_redeemed' },
  ]);
  // What was right when it happened is no conflict now.
  expect(await venue.ask('SELECT count(*)::int AS n FROM conflicts')).toEqual([{ n: 0 }]);
});
