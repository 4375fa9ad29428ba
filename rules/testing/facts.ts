/** Makes facts for the tests of rules: a valid ticket at an open gate, an hour after the doors. */
import { admit } from '../admission.ts';
import type { Entry, EventFacts, PlaceFacts, TicketFacts, Verdict } from '../facts.ts';
import { effectivePolicy, type GatePolicy } from '../policy.ts';

export const MINUTE_MS = 60_000;
export const HOUR_MS = 60 * MINUTE_MS;
export const DAY_MS = 24 * HOUR_MS;
/** A Saturday, 19:00 in Berlin. */
export const NOW_MS = Date.parse('2027-05-01T17:00:00.000Z');
export const GATE = 'arena/north-03';

export const TICKET: TicketFacts = {
  eventId: 'cup-final',
  ticketId: 'T-1',
  ticketRef: '00112233445566778899aabbccddeeff',
  tier: 'standard',
  zone: null,
  status: 'valid',
  maxScans: null,
  units: 1,
  validFromMs: null,
  validUntilMs: null,
  vip: false,
  note: null,
  source: 'manifest',
};
export const EVENT: EventFacts = {
  eventId: 'cup-final',
  startsAtMs: NOW_MS - HOUR_MS,
  endsAtMs: NOW_MS + 4 * HOUR_MS,
  timeZone: 'Europe/Berlin',
  manifestVersion: 7,
  manifestGeneratedAtMs: NOW_MS - HOUR_MS,
  manifestExpiresAtMs: NOW_MS + 23 * HOUR_MS,
  inside: null,
};
export const PLACE: PlaceFacts = { gate: GATE, direction: 'in', mode: 'controlled', nowMs: NOW_MS, clockTrusted: true, online: true, usageComplete: true };

/** Makes one counted entry, by default an hour ago at another gate. */
export const entry = (given: Partial<Entry> = {}): Entry => ({
  gate: 'arena/south-01',
  atMs: NOW_MS - HOUR_MS,
  direction: 'in',
  units: 1,
  outcome: 'passed',
  ...given,
});
export const exit = (given: Partial<Entry> = {}): Entry => entry({ direction: 'out', atMs: NOW_MS - HOUR_MS / 2, ...given });

export interface Given {
  readonly ticket?: Partial<TicketFacts>;
  readonly entries?: readonly Entry[];
  readonly event?: Partial<EventFacts>;
  readonly place?: Partial<PlaceFacts>;
  readonly policy?: GatePolicy;
}

/** Returns the verdict on a valid ticket with the given changes. */
export function judged(given: Given): Verdict {
  const ticket = { ...TICKET, ...given.ticket };
  return admit(
    { kind: 'ticket', ticket, medium: 'opaque', entries: given.entries ?? [], event: { ...EVENT, ...given.event } },
    effectivePolicy({ gates: { [GATE]: given.policy ?? {} } }, ticket.tier, GATE),
    { ...PLACE, ...given.place },
  );
}
