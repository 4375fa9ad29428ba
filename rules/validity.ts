/** Checks times: the ticket's validity, the admission window, the expiry after the first entry, the weekly schedule. */
import { type Ask, refusal, show } from './check-context.ts';
import type { EventFacts, PlaceFacts, RecognisedTicket, Refusal } from './facts.ts';
import type { Policy } from './policy.ts';
import { nextOpenMs } from './venue-time.ts';
import { usageOf } from './visits.ts';

/** Length of an event without an end, in hours; afterwards its tickets admit nobody. */
export const DEFAULT_LENGTH_H = 12;
export const defaultEndMs = (startsAtMs: number): number => startsAtMs + DEFAULT_LENGTH_H * 3_600_000;

/** Returns the end of an event; null where it has neither end nor beginning. */
export const endOf = ({ startsAtMs, endsAtMs }: Pick<EventFacts, 'startsAtMs' | 'endsAtMs'>): number | null =>
  endsAtMs ?? (startsAtMs === null ? null : defaultEndMs(startsAtMs));

/** Returns a warning about an event without an end; null where it has one. */
export function endWarning({ startsAtMs, endsAtMs }: Pick<EventFacts, 'startsAtMs' | 'endsAtMs'>): string | null {
  if (endsAtMs !== null) return null;
  const hint = 'give it one with stile-cloud event put --ends';
  return startsAtMs === null
    ? `has no end, and its tickets open its gates for ever: ${hint}`
    : `has no end, and ends ${DEFAULT_LENGTH_H} h after its beginning by default: ${hint}`;
}

interface Window {
  /**
   * Returns the first and the last moment of admission; ±Infinity where it is open. Only the first includes the grace, so that callers can tell it
   * apart.
   */
  readonly fromMs: number;
  readonly untilMs: number;
  readonly graceAfterMs: number;
}

function windowOf({ ticket, event, policy, usage }: Ask): Window {
  const { admission } = policy;
  const after = (baseMs: number | null, seconds: number | null): number =>
    baseMs === null || seconds === null ? Number.POSITIVE_INFINITY : baseMs + seconds * 1000;
  const time = (text: string | null, open: number): number => (text === null ? open : Date.parse(text));
  const fromMs = Math.max(
    ticket.validFromMs ?? Number.NEGATIVE_INFINITY,
    time(admission.from, Number.NEGATIVE_INFINITY),
    event.startsAtMs === null || admission.opens_before_start_s === null ? Number.NEGATIVE_INFINITY : event.startsAtMs - admission.opens_before_start_s * 1000,
  );
  const untilMs = Math.min(
    ticket.validUntilMs ?? Number.POSITIVE_INFINITY,
    time(admission.until, Number.POSITIVE_INFINITY),
    after(event.startsAtMs, admission.closes_after_start_s),
    after(endOf(event), admission.closes_after_end_s),
    after(usage.visits[0]?.atMs ?? null, policy.expires_after_first_entry_s),
  );
  return { fromMs: fromMs - admission.grace_before_s * 1000, untilMs, graceAfterMs: admission.grace_after_s * 1000 };
}

/** Checks times, for entries only. Does nothing where the clock is not trusted: the policy `clock_untrusted` has decided. */
export function checkTime(ask: Ask): Refusal | null {
  const { place, policy, event } = ask;
  if (!place.clockTrusted) return null;
  const { fromMs, untilMs, graceAfterMs } = windowOf(ask);
  const closedMs = untilMs + graceAfterMs;
  if (place.nowMs > closedMs) return refusal(ask, 'invalid_time', { valid_until: show(ask, untilMs) });
  const { schedule, admission } = policy;
  if (schedule === null && place.nowMs >= fromMs) return null;
  const earliestMs = Math.max(fromMs, place.nowMs);
  const openMs =
    schedule === null ? earliestMs : nextOpenMs(schedule, earliestMs, event.timeZone, admission.grace_before_s * 1000, admission.grace_after_s * 1000);
  if (openMs === place.nowMs) return null;
  if (openMs === null || openMs > closedMs) return refusal(ask, 'invalid_time');
  return refusal(ask, 'invalid_time', place.nowMs < fromMs ? { valid_from: show(ask, openMs, 'up') } : {}, openMs);
}

/** Returns whether admission is open now for this ticket at this place. Without a trusted clock it is. */
export function isOpen({ ticket, event, entries }: RecognisedTicket, policy: Policy, place: PlaceFacts): boolean {
  return checkTime({ ticket, event, policy, place, entries, usage: usageOf(entries, ticket.units), flags: new Set() }) === null;
}
