/** The cloud's answer about an unknown code, as facts for the rules. */
import type { LookupAnswer } from '../../contract/manifest.ts';
import type { CloudTicket } from './resolve-ticket.ts';

export function parseCloudAnswer(tickets: LookupAnswer['tickets']): readonly CloudTicket[] {
  return tickets.map(({ event_id, ticket, usage }) => {
    const entries = usage.map((entry) => ({
      gate: entry.gate,
      epoch: entry.epoch,
      seq: entry.seq,
      ...(entry.hash8 === undefined ? {} : { hash: entry.hash8 }),
      atMs: Date.parse(entry.at),
      direction: entry.direction,
      units: entry.units,
      outcome: entry.outcome,
    }));
    if ('removed' in ticket && ticket.removed === true)
      return { eventId: event_id, ticketRef: ticket.ticket_ref, found: ticket.reason as Extract<CloudTicket['found'], string>, usage: entries };
    const one = ticket as Exclude<typeof ticket, { removed: true }>;
    const time = (text: string | null): number | null => (text === null ? null : Date.parse(text));
    return {
      eventId: event_id,
      ticketRef: one.ticket_ref,
      usage: entries,
      found: {
        eventId: event_id,
        ticketId: one.ticket_id,
        ticketRef: one.ticket_ref,
        tier: one.tier,
        zone: one.zone,
        status: one.status,
        maxScans: one.max_scans,
        units: one.units,
        validFromMs: time(one.valid_from),
        validUntilMs: time(one.valid_until),
        vip: one.vip,
        note: one.note,
        source: 'cloud' as const,
      },
    };
  });
}
