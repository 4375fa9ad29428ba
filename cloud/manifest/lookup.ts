/** Answers lookups of codes that a gate did not know: rights and usage, never a grant. */
import type { LookupAnswer, LookupQuestion, UsageEntry } from '../../contract/manifest.ts';
import type { DatabaseClient } from '../db/database.ts';
import { TICKET_COLUMNS, type TicketRow, type TombstoneRow, ticketChange, tombstone } from './ticket-rights.ts';

export type ReadTicketUsage = (client: DatabaseClient, eventId: string, ticketId: string) => Promise<UsageEntry[]>;

/** Looks in the events that the gate is assigned, and no others. Leaves out unknown codes. */
export async function lookUp(client: DatabaseClient, gate: string, question: LookupQuestion, readUsage: ReadTicketUsage): Promise<LookupAnswer['tickets']> {
  const found: LookupAnswer['tickets'] = [];
  for (const { event_id, ticket_ref } of question.refs) {
    const event = (
      await client.query<{ version: number }>(
        'SELECT e.version FROM gate_assignments a JOIN events e ON e.tenant_id = a.tenant_id AND e.event_id = a.event_id WHERE a.gate = $1 AND a.event_id = $2',
        [gate, event_id],
      )
    ).rows[0];
    if (event === undefined) continue;
    const key = [event_id, Buffer.from(ticket_ref, 'hex')];
    const ticket = (
      await client.query<TicketRow>(`SELECT ${TICKET_COLUMNS} FROM tickets WHERE tenant_id = current_tenant_id() AND event_id = $1 AND ticket_ref = $2`, key)
    ).rows[0];
    if (ticket !== undefined) {
      found.push({ event_id, overlay_version: event.version, ticket: ticketChange(ticket), usage: await readUsage(client, event_id, ticket.ticket_id) });
      continue;
    }
    const gone = (
      await client.query<TombstoneRow>(
        'SELECT ticket_ref, ticket_id, reason FROM ticket_tombstones WHERE tenant_id = current_tenant_id() AND event_id = $1 AND ticket_ref = $2',
        key,
      )
    ).rows[0];
    if (gone !== undefined) found.push({ event_id, overlay_version: event.version, ticket: tombstone(gone), usage: [] });
  }
  return found;
}
