/**
 * Writes tickets of one event, in sets: adds new ones, changes those that differ, leaves the rest. Raises the event's version when anything
 * changed; the caller marks the outbox (`notifyGates`). Locks: the event, then its tickets, sorted.
 */
import type { TicketState } from '../../contract/manifest.ts';
import type { DatabaseClient } from '../db/database.ts';
import { ticketRef } from './codes/code-hash.ts';
import type { FieldProblem, TicketFields } from './ticket-fields.ts';

export interface LockedEvent {
  readonly eventId: string;
  readonly salt: Buffer;
  readonly version: number;
  /** The event's next version, used when something changes. */
  readonly nextVersion: number;
}

export interface WriteResult {
  readonly created: number;
  readonly updated: number;
  readonly unchanged: number;
  /** Tickets that were left out, by their place in the list. */
  readonly problems: ReadonlyMap<number, FieldProblem>;
}

/** A ticket as it is, or shall be, in Postgres. Times as ISO 8601, the ref in hex. */
interface Stored {
  readonly ticket_id: string;
  readonly ref: string;
  readonly tier: string;
  readonly zone: string | null;
  readonly status: TicketState;
  readonly blocked: boolean;
  readonly approved: boolean;
  readonly max_scans: number | null;
  readonly units: number;
  readonly valid_from: string | null;
  readonly valid_until: string | null;
  readonly vip: boolean;
  readonly note: string | null;
  readonly ticket_number: string | null;
  readonly user_id: string | null;
  readonly price_cents: number | null;
  readonly section: string | null;
  readonly seat_row: string | null;
  readonly seat: string | null;
}
const COLUMNS = [
  'tier',
  'zone',
  'status',
  'blocked',
  'approved',
  'max_scans',
  'units',
  'valid_from',
  'valid_until',
  'vip',
  'note',
  'ticket_number',
  'user_id',
  'price_cents',
  'section',
  'seat_row',
  'seat',
] as const satisfies readonly (keyof Stored)[];
const DEFAULTS = {
  tier: 'standard',
  zone: null,
  status: 'sold',
  blocked: false,
  approved: true,
  max_scans: null,
  units: 1,
  valid_from: null,
  valid_until: null,
  vip: false,
  note: null,
  ticket_number: null,
  user_id: null,
  price_cents: null,
  section: null,
  seat_row: null,
  seat: null,
} as const;
const UNUSED_STATES: ReadonlySet<TicketState> = new Set(['sold', 'minted', 'active', 'transferred']);

/** Locks the event against other writers until the transaction ends; null: no such event. */
export async function lockEvent(client: DatabaseClient, eventId: string): Promise<LockedEvent | null> {
  const { rows } = await client.query<{ salt: Buffer; version: number; next: number }>(
    'SELECT salt, version, next_event_version(version) AS next FROM events WHERE event_id = $1 FOR UPDATE',
    [eventId],
  );
  const row = rows[0];
  return row === undefined ? null : { eventId, salt: row.salt, version: row.version, nextVersion: row.next };
}

/** Marks the outbox, so that the event's gates are notified. `build`: with a new manifest file. In the transaction of the change. */
export async function notifyGates(client: DatabaseClient, tenantId: string, eventId: string, build: boolean): Promise<void> {
  await client.query("INSERT INTO outbox (tenant_id, kind, key, build) VALUES ($1, 'event', $2, $3)", [tenantId, eventId, build]);
}

export async function raiseVersion(client: DatabaseClient, event: LockedEvent): Promise<void> {
  await client.query('UPDATE events SET version = $2, updated_at = now() WHERE event_id = $1', [event.eventId, event.nextVersion]);
}

const WRITE = `
INSERT INTO tickets AS o (tenant_id, event_id, ticket_id, ticket_ref, ${COLUMNS.join(', ')}, changed_version)
SELECT $1, $2, ticket_id, decode(ref, 'hex'), ${COLUMNS.join(', ')}, $4
FROM jsonb_to_recordset($3::jsonb) AS given (ticket_id text, ref text, tier text, zone text, status ticket_status, blocked boolean, approved boolean, max_scans integer, units integer, valid_from timestamptz, valid_until timestamptz, vip boolean, note text, ticket_number text, user_id text, price_cents bigint, section text, seat_row text, seat text)
ORDER BY ticket_id
ON CONFLICT (tenant_id, event_id, ticket_id) DO UPDATE SET ticket_ref = excluded.ticket_ref, ${COLUMNS.map((name) => `${name} = excluded.${name}`).join(', ')},
  changed_version = excluded.changed_version, row_version = o.row_version + 1, updated_at = now()`;

/** Writes tickets. Codes are hashed here and not stored. `event` must have been locked in this transaction. At most some thousands at once. */
export async function writeTickets(client: DatabaseClient, tenantId: string, event: LockedEvent, tickets: readonly TicketFields[]): Promise<WriteResult> {
  const given = tickets.map(({ code, ...rest }): Given => ({ ...rest, ref: code === undefined ? null : ticketRef(event.salt, code).toString('hex') }));
  const known = await lockTickets(
    client,
    event.eventId,
    given.map(({ ticket_id }) => ticket_id),
  );
  const problems = await findProblems(client, event.eventId, given, known);
  const good = given.filter((_, index) => !problems.has(index));
  const changed = good.flatMap((ticket): Stored[] => {
    const before = known.get(ticket.ticket_id);
    const after = merged(before, ticket);
    return before !== undefined && before.ref === after.ref && COLUMNS.every((name) => before[name] === after[name]) ? [] : [after];
  });
  const created = changed.filter(({ ticket_id }) => !known.has(ticket_id)).length;
  const result = { created, updated: changed.length - created, unchanged: good.length - changed.length, problems };
  if (changed.length === 0) return result;

  const tiers = [...new Set(changed.map(({ tier }) => tier))].sort();
  await client.query('INSERT INTO ticket_types (tenant_id, event_id, tier) SELECT $1, $2, tier FROM unnest($3::text[]) AS tier ON CONFLICT DO NOTHING', [
    tenantId,
    event.eventId,
    tiers,
  ]);
  // The old code of a ticket with a new one is revoked; a code that is used again is no tombstone.
  const replaced = changed.flatMap(({ ticket_id, ref }) => {
    const old = known.get(ticket_id)?.ref;
    return old === undefined || old === ref ? [] : [{ ticketId: ticket_id, ref: old }];
  });
  await bury(client, tenantId, event, replaced);
  await client.query('DELETE FROM ticket_tombstones WHERE tenant_id = $1 AND event_id = $2 AND ticket_ref = ANY($3)', [
    tenantId,
    event.eventId,
    changed.map(({ ref }) => Buffer.from(ref, 'hex')),
  ]);
  // The ticketing side's state is authoritative for its own sales, also where no rule would change a state that way.
  await client.query("SELECT set_config('app.status_change_source', 'ticketing', true)");
  await client.query(WRITE, [tenantId, event.eventId, JSON.stringify(changed), event.nextVersion]);
  await raiseVersion(client, event);
  return result;
}

type Given = Omit<TicketFields, 'code'> & { readonly ref: string | null };

/** Keeps fields that are not given. The ticketing side's "sold" is older than the gates' "used". */
function merged(before: Stored | undefined, given: Given): Stored {
  const base = before ?? { ...DEFAULTS, ticket_id: given.ticket_id, ref: given.ref ?? '' };
  const fields = Object.fromEntries(COLUMNS.flatMap((name) => (given[name] === undefined ? [] : [[name, given[name]]]))) as Partial<Stored>;
  const used =
    before !== undefined && (before.status === 'checked_in' || before.status === 'used') && fields.status !== undefined && UNUSED_STATES.has(fields.status);
  return { ...base, ...fields, ...(used ? { status: before.status } : {}), ref: given.ref ?? base.ref };
}

/** Returns revoked refs, published as `revoked`. */
export async function bury(
  client: DatabaseClient,
  tenantId: string,
  event: LockedEvent,
  refs: readonly { readonly ticketId: string; readonly ref: string }[],
): Promise<void> {
  if (refs.length === 0) return;
  await client.query(
    `INSERT INTO ticket_tombstones (tenant_id, event_id, ticket_ref, ticket_id, reason, changed_version)
     SELECT $1, $2, decode(ref, 'hex'), ticket_id, 'revoked', $5 FROM unnest($3::text[], $4::text[]) AS t (ref, ticket_id) ORDER BY ref
     ON CONFLICT (tenant_id, event_id, ticket_ref) DO UPDATE SET reason = excluded.reason, ticket_id = excluded.ticket_id, changed_version = excluded.changed_version`,
    [tenantId, event.eventId, refs.map(({ ref }) => ref), refs.map(({ ticketId }) => ticketId), event.nextVersion],
  );
}

async function lockTickets(client: DatabaseClient, eventId: string, ids: readonly string[]): Promise<Map<string, Stored>> {
  const { rows } = await client.query<Omit<Stored, 'valid_from' | 'valid_until'> & { valid_from: Date | null; valid_until: Date | null }>(
    `SELECT ticket_id, encode(ticket_ref, 'hex') AS ref, ${COLUMNS.join(', ')} FROM tickets WHERE tenant_id = current_tenant_id() AND event_id = $1 AND ticket_id = ANY($2) ORDER BY ticket_id FOR UPDATE`,
    [eventId, ids],
  );
  return new Map(
    rows.map((row) => [row.ticket_id, { ...row, valid_from: row.valid_from?.toISOString() ?? null, valid_until: row.valid_until?.toISOString() ?? null }]),
  );
}

/** Finds the errors for which Postgres would refuse the whole set. */
async function findProblems(
  client: DatabaseClient,
  eventId: string,
  given: readonly Given[],
  known: ReadonlyMap<string, Stored>,
): Promise<Map<number, FieldProblem>> {
  const problems = new Map<number, FieldProblem>();
  const refs = given.flatMap(({ ref }) => (ref === null ? [] : [Buffer.from(ref, 'hex')]));
  const { rows } = await client.query<{ ref: string; ticket_id: string }>(
    "SELECT encode(ticket_ref, 'hex') AS ref, ticket_id FROM tickets WHERE tenant_id = current_tenant_id() AND event_id = $1 AND ticket_ref = ANY($2)",
    [eventId, refs],
  );
  const holders = new Map(rows.map(({ ref, ticket_id }) => [ref, ticket_id]));
  const numbers = await holdersOfNumbers(client, eventId, given);
  const ids = new Set<string>();
  given.forEach((ticket, index) => {
    const { ticket_id, ref } = ticket;
    const holder = ref === null ? undefined : holders.get(ref);
    const { valid_from, valid_until } = merged(known.get(ticket_id), ticket);
    if (ids.has(ticket_id)) problems.set(index, { field: 'ticket_id', what: `${JSON.stringify(ticket_id)} was given before`, hint: 'name each ticket once' });
    else if (ref === null && !known.has(ticket_id))
      problems.set(index, { field: 'code', what: 'is missing', hint: 'a new ticket needs the code that its QR says' });
    else if (holder !== undefined && holder !== ticket_id)
      problems.set(index, { field: 'code', what: `is already the code of ticket ${JSON.stringify(holder)}`, hint: 'give every ticket a code of its own' });
    else if (valid_from !== null && valid_until !== null && valid_from > valid_until)
      problems.set(index, { field: 'valid_until', what: `${valid_until} is before valid_from ${valid_from}`, hint: 'put them in order' });
    else if (ticket.ticket_number != null && (numbers.get(ticket.ticket_number) ?? ticket_id) !== ticket_id)
      problems.set(index, { field: 'ticket_number', what: 'is already the number of another ticket', hint: 'give every ticket a number of its own' });
    ids.add(ticket_id);
    if (ticket.ticket_number != null && !problems.has(index)) numbers.set(ticket.ticket_number, ticket_id);
    if (ref !== null && !problems.has(index)) holders.set(ref, ticket_id);
  });
  return problems;
}

/**
 * Returns the owners of these ticket numbers, which are unique to a tenant; a ticket of another event includes its event, so that it never equals
 * this one.
 */
async function holdersOfNumbers(client: DatabaseClient, eventId: string, given: readonly Given[]): Promise<Map<string, string>> {
  const numbers = given.flatMap(({ ticket_number }) => (ticket_number == null ? [] : [ticket_number]));
  if (numbers.length === 0) return new Map();
  const { rows } = await client.query<{ ticket_number: string; holder: string }>(
    "SELECT ticket_number, CASE WHEN event_id = $1 THEN ticket_id ELSE event_id || '/' || ticket_id END AS holder FROM tickets WHERE tenant_id = current_tenant_id() AND ticket_number = ANY($2)",
    [eventId, numbers],
  );
  return new Map(rows.map(({ ticket_number, holder }) => [ticket_number, holder]));
}
