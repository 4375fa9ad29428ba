/**
 * Checks usage: entries in total, per day, per gate, number of days; re-entry, anti-passback, gaps; the venue's capacity.
 *
 * Within the duplicate window a ticket that could not enter again anyway is refused as `already_redeemed`, with the first entry's data; one that
 * may re-enter as `gap`. Rules of time are skipped without a trusted clock, except for the duplicate window: it is short, and mostly measured by
 * this gate's own clock.
 */
import { type Ask, gateName, refusal, show } from './check-context.ts';
import type { Refusal } from './facts.ts';
import { localDay, localDays, nextDayMs } from './venue-time.ts';

/** Longest time, in ms, that an entry of another gate may lie ahead of this clock; beyond it no gap is measured from it. */
const CLOCK_SKEW_MS = 60_000;

/** Returns the number of guests who may pass now, or a refusal. */
export function entitledUnits(ask: Ask): number | Refusal {
  const { ticket, policy, usage } = ask;
  if (usage.visits.length === 0) return ticket.units;
  // The remaining units of a party that has begun to arrive: the same visit.
  if (usage.expected > 0) return usage.expected;
  if (ticket.vip && policy.vip_reentry === 'always') return ticket.units;
  const refused = checkAllowance(ask) ?? checkReentry(ask) ?? checkDays(ask) ?? checkGate(ask) ?? checkPassback(ask) ?? checkGap(ask);
  if (refused !== null) return refused;
  const outside = ticket.units - usage.inside;
  const onlyThoseOutside = policy.reentry.rule === 'after_exit' || (policy.passback.mode === 'hard' && !isForgotten(ask));
  return onlyThoseOutside ? outside : ticket.units;
}

const usedFacts = (ask: Ask): Record<string, string> => {
  const first = ask.usage.visits[0];
  return first === undefined ? {} : { used_at: show(ask, first.atMs), used_gate: gateName(first.gate) };
};

const insideFacts = (ask: Ask): Record<string, string> => {
  const { lastInMs, lastInGate } = ask.usage;
  return lastInMs === null || lastInGate === null ? {} : { inside_since: show(ask, lastInMs), inside_gate: gateName(lastInGate) };
};

function checkAllowance(ask: Ask): Refusal | null {
  const { ticket, policy, usage } = ask;
  const { rule, counts_as_entry } = policy.reentry;
  const total = ticket.maxScans ?? policy.entries.total ?? (rule === 'none' ? 1 : null);
  if (total === null || (rule !== 'none' && !counts_as_entry)) return null;
  const used = usage.visits.length;
  if (used < total) return null;
  return total === 1 ? refusal(ask, 'already_redeemed', usedFacts(ask)) : refusal(ask, 'max_entries', { entries: used, max_entries: total });
}

function checkReentry(ask: Ask): Refusal | null {
  const { ticket, policy, usage, place } = ask;
  const { rule, max, until } = policy.reentry;
  if (rule === 'after_exit' && usage.inside >= ticket.units) return refusal(ask, 'already_inside', insideFacts(ask));
  if (max !== null && usage.visits.length - 1 >= max) {
    return max === 0 ? refusal(ask, 'already_redeemed', usedFacts(ask)) : refusal(ask, 'max_entries', { entries: usage.visits.length, max_entries: max + 1 });
  }
  if (until !== null && place.clockTrusted && place.nowMs > Date.parse(until))
    return refusal(ask, 'already_redeemed', { ...usedFacts(ask), reentry_until: show(ask, Date.parse(until)) });
  return null;
}

function checkDays(ask: Ask): Refusal | null {
  const { policy, usage, place, event } = ask;
  const { per_day, days } = policy.entries;
  if ((per_day === null && days === null) || !place.clockTrusted) return null;
  const today = localDay(place.nowMs, event.timeZone);
  const used = localDays(
    usage.visits.map((visit) => visit.atMs),
    event.timeZone,
  );
  if (days !== null) {
    const distinct = new Set(used);
    if (!distinct.has(today) && distinct.size >= days) return refusal(ask, 'max_entries', { days });
  }
  if (per_day === null || used.filter((day) => day === today).length < per_day) return null;
  const tomorrowMs = nextDayMs(place.nowMs, event.timeZone);
  const mayReturn = days === null || new Set(used).size < days;
  return refusal(ask, 'max_entries', {}, mayReturn ? tomorrowMs : null);
}

function checkGate(ask: Ask): Refusal | null {
  const { policy, usage, place } = ask;
  const limit = policy.entries.per_gate;
  if (limit === null) return null;
  const here = usage.visits.filter((visit) => visit.gate === place.gate).length;
  return here < limit ? null : refusal(ask, 'max_entries', { gate_entries: here, max_gate_entries: limit });
}

/** Returns whether an entry is older than this: it then no longer proves that the guest is inside. */
function isForgotten({ policy, usage, place }: Ask): boolean {
  const { forget_after_s } = policy.passback;
  return forget_after_s !== null && place.clockTrusted && usage.lastInMs !== null && place.nowMs - usage.lastInMs >= forget_after_s * 1000;
}

function checkPassback(ask: Ask): Refusal | null {
  const { ticket, policy, usage } = ask;
  if (policy.passback.mode === 'off' || usage.inside < ticket.units || isForgotten(ask)) return null;
  if (policy.passback.mode === 'soft') {
    ask.flags.add('passback_soft');
    return null;
  }
  const { forget_after_s } = policy.passback;
  const againMs = forget_after_s === null || usage.lastInMs === null ? null : usage.lastInMs + forget_after_s * 1000;
  return refusal(ask, 'passback', insideFacts(ask), againMs);
}

function checkGap(ask: Ask): Refusal | null {
  const { policy, usage, place } = ask;
  if (usage.lastInMs === null || usage.lastInMs > place.nowMs + CLOCK_SKEW_MS) return null;
  const gapMs = Math.max(policy.duplicate_window_s, place.clockTrusted ? policy.reentry.min_gap_s : 0) * 1000;
  const sinceMs = Math.max(0, place.nowMs - usage.lastInMs);
  if (sinceMs >= gapMs) return null;
  const againMs = usage.lastInMs + gapMs;
  // A clock time does not help somebody who waits for seconds.
  return againMs - place.nowMs < 60_000 ? refusal(ask, 'gap', { seconds_ago: Math.floor(sinceMs / 1000) }, againMs) : refusal(ask, 'gap', {}, againMs);
}

/** Returns whether these units still fit, counted by this gate from its own usage. */
export function checkCapacity(ask: Ask, units: number): Refusal | null {
  const { event, policy } = ask;
  const { limit, mode } = policy.occupancy;
  if (limit === null || event.inside === null || event.inside + units <= limit) return null;
  if (mode === 'enforce') return refusal(ask, 'capacity', { inside: event.inside, capacity: limit });
  ask.flags.add('capacity');
  return null;
}
