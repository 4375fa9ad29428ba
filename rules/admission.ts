/**
 * Decides from ticket, usage, policy, place and time: Grant or Refusal, with an explanation.
 *
 * Pure and total: a rule that throws refuses with `error`. The order of checks is the field's (status, time, product, payment, the venue's rules,
 * usage), then ours, so that the guest reads first what is hardest to change.
 */

import { RIGHT_REASONS } from '../contract/manifest.ts';
import { explain, type Reason, type ReasonFacts } from '../contract/reasons.ts';
import { cutText } from '../contract/text.ts';
import { type Ask, admitInSpite, type Check, gateName, refusal, show } from './check-context.ts';
import { checkCapacity, entitledUnits } from './entitlement.ts';
import { checkVenueRule } from './explain-refusal.ts';
import type { Grant, PlaceFacts, Recognised, Refusal, Verdict } from './facts.ts';
import { gateForZone, type Policy, serves } from './policy.ts';
import { checkTime } from './validity.ts';
import { usageOf } from './visits.ts';

/** Decides. `policy` is the effective one of the ticket's tier at this gate (of the gate alone where no ticket is known). */
export function admit(facts: Recognised, policy: Policy, place: PlaceFacts): Verdict {
  try {
    return decide(facts, policy, place);
  } catch {
    return plainRefusal('error');
  }
}

function plainRefusal(reason: Reason, facts: ReasonFacts = {}): Refusal {
  return { kind: 'refusal', reason, facts, explanation: explain(reason, facts), validAgainAtMs: null };
}

function decide(facts: Recognised, policy: Policy, place: PlaceFacts): Verdict {
  // A free lane needs no ticket; a ticket that is shown is checked all the same, and returned if nobody passes.
  if (place.mode !== 'controlled' && place.mode !== 'free') return plainRefusal('gate_locked', { mode: place.mode });
  switch (facts.kind) {
    case 'unreadable':
      return plainRefusal('unreadable');
    case 'ambiguous':
      return plainRefusal('ambiguous');
    case 'no_manifest':
      return plainRefusal('manifest_stale', { gate: gateName(place.gate) });
    case 'unknown':
      return plainRefusal(facts.removed ?? 'invalid');
    case 'ticket':
      break;
  }
  const { ticket, event, entries } = facts;
  const ask: Ask = {
    ticket,
    event,
    policy,
    place,
    entries,
    usage: usageOf(entries, ticket.units),
    flags: new Set(facts.chosenOfSeveral === true ? ['chosen_of_several'] : []),
  };
  return place.direction === 'out' ? exit(ask) : enter(ask);
}

const ENTRY_CHECKS: readonly Check[] = [checkRight, checkSeries, checkClock, checkTime, checkPlace, checkApproval, checkKnowledge, checkVenueRule];

function enter(ask: Ask): Verdict {
  const { usage, place, ticket } = ask;
  const units = judgeEntry(ask, ENTRY_CHECKS);
  if (typeof units !== 'number') return keepPromise(ask, units);
  const here = place.units ?? units;
  if (here > units) return refusal(ask, 'max_entries', { entries: ticket.units - units, max_entries: ticket.units });
  const full = checkCapacity(ask, here);
  if (full !== null) return full;
  // Later units of a party belong to the visit that its first began.
  const again = usage.visits.length > (usage.expected > 0 ? 1 : 0);
  return grant(ask, again ? 'reentry' : 'first_entry', here, usage.lastInMs);
}

function judgeEntry(ask: Ask, checks: readonly Check[]): number | Refusal {
  for (const check of checks) {
    const refused = check(ask);
    if (refused !== null) return refused;
  }
  return entitledUnits(ask);
}

/** Returns the refusals that hold at another time too: not the list's age, nor missing usage of this gate. */
const LASTING_CHECKS: readonly Check[] = [checkRight, checkSeries, checkTime, checkPlace, checkApproval, checkVenueRule];

/** "Valid again at" is a promise: it is left out where another check would refuse the ticket then. */
function keepPromise(ask: Ask, refused: Refusal): Refusal {
  if (refused.validAgainAtMs === null) return refused;
  // A bound holds one millisecond later, whether or not it includes its own moment.
  const then: Ask = { ...ask, place: { ...ask.place, nowMs: refused.validAgainAtMs + 1 }, flags: new Set() };
  if (typeof judgeEntry(then, LASTING_CHECKS) === 'number') return refused;
  const { valid_again_at: _broken, ...facts } = refused.facts;
  return refusal(ask, refused.reason, facts);
}

/** Lets a guest who is inside leave, whatever the ticket's status. */
function exit(ask: Ask): Verdict {
  const { ticket, usage, policy, place } = ask;
  if (usage.inside > 0) return grant(ask, 'exit', Math.min(place.units ?? usage.inside, ticket.units), null);
  const refused = checkRight(ask) ?? checkPlace(ask);
  if (refused !== null) return refused;
  if (place.usageComplete && policy.passback.mode === 'hard') return refusal(ask, 'passback');
  if (place.usageComplete && policy.passback.mode === 'soft') ask.flags.add('passback_soft');
  return grant(ask, 'exit', Math.min(place.units ?? ticket.units, ticket.units), null);
}

function grant(ask: Ask, type: Grant['type'], units: number, lastEntryMs: number | null): Grant {
  return { kind: 'grant', type, direction: ask.place.direction, units, flags: [...ask.flags], lastEntryMs, vip: ask.ticket.vip };
}

/** Longest fact of a refusal, in characters; longer ones are cut. */
const MAX_NOTE_CHARS = 128;

/** Checks the ticket's status. unpaid and unapproved come later: a person may override them. */
function checkRight(ask: Ask): Refusal | null {
  const { status, note, source } = ask.ticket;
  if (source === 'signature') {
    const refused = admitInSpite(ask, ask.policy.signed_unknown, 'signature_only', 'invalid');
    if (refused !== null) return refused;
  }
  switch (status) {
    case 'valid':
    case 'unpaid':
    case 'unapproved':
      return null;
    case 'blocked':
      return refusal(ask, 'blocked', note === null ? {} : { note: cutText(note, MAX_NOTE_CHARS) });
    case 'expired':
      return refusal(ask, 'invalid_time', ask.ticket.validUntilMs === null ? {} : { valid_until: show(ask, ask.ticket.validUntilMs) });
    // No ticket is found for a replaced code, so this ticket itself was revoked.
    case 'revoked':
      return refusal(ask, 'revoked', { ticket: ask.ticket.ticketId });
    default:
      return refusal(ask, RIGHT_REASONS[status]);
  }
}

/** Checks the date of a signed code. A ticket in the list is for this event, unless the event lists its dates. */
function checkSeries(ask: Ask): Refusal | null {
  const { ticket, policy } = ask;
  const subevent = ticket.subevent ?? null;
  if (subevent === null || (policy.subevents === null ? ticket.source !== 'signature' : policy.subevents.includes(subevent))) return null;
  return refusal(ask, 'product', { subevent });
}

function checkClock(ask: Ask): Refusal | null {
  return ask.place.clockTrusted ? null : admitInSpite(ask, ask.policy.clock_untrusted, 'clock_untrusted', 'clock_untrusted');
}

function checkPlace(ask: Ask): Refusal | null {
  const { ticket, policy } = ask;
  if (!serves(policy.tiers, ticket.tier)) return refusal(ask, 'product', { tier: ticket.tier });
  if (ticket.zone === null || serves(policy.zones, ticket.zone)) return null;
  const other = gateForZone(policy, ticket.zone);
  return refusal(ask, 'zone', { zone: ticket.zone, ...(other === null ? {} : { other_gate: gateName(other) }) });
}

function checkApproval(ask: Ask): Refusal | null {
  if (ask.ticket.status === 'unapproved') return admitInSpite(ask, ask.policy.unapproved, 'unapproved', 'unapproved');
  if (ask.ticket.status === 'unpaid') return admitInSpite(ask, ask.policy.unpaid, 'unpaid', 'unpaid');
  return null;
}

/** Checks what this gate knows: the age of its ticket list, its usage. A VIP pass without a limit needs no usage. */
function checkKnowledge(ask: Ask): Refusal | null {
  const { event, policy, place, ticket } = ask;
  // Without a trusted clock the list's age is unknown; the policy `clock_untrusted` has decided.
  if (place.clockTrusted && place.nowMs > event.manifestExpiresAtMs) {
    const refused = admitInSpite(ask, policy.manifest_stale, 'manifest_stale', 'manifest_stale', { generated_at: show(ask, event.manifestGeneratedAtMs) });
    if (refused !== null) return refused;
  }
  if (place.usageComplete || (ticket.vip && policy.vip_reentry === 'always')) return null;
  return admitInSpite(ask, policy.usage_lost === 'ask' ? 'admit_and_flag' : policy.usage_lost, 'usage_lost', 'usage_lost');
}
