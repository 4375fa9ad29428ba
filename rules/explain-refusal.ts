/**
 * Explains a refusal by the venue's rule with its nearest miss. Of several alternatives it names the one that the guest could meet most easily:
 * another time before another ticket, and the nearer of two times.
 */

import type { ReasonFacts } from '../contract/reasons.ts';
import { type Ask, type Check, gateName, refusal, show } from './check-context.ts';
import { evaluate, holds, withoutTime } from './logic.ts';
import { isOperation, operation, type RuleNode } from './venue-rule.ts';
import { nextDayMs } from './venue-time.ts';

/** Holds how hard a condition is to meet and by how much it was missed. */
interface Miss {
  readonly hardness: number;
  readonly distance: number;
  readonly facts: ReasonFacts;
}

/** The weight of a condition: the less a guest can change it, the higher. */
const HARDNESS: Readonly<Record<string, number>> = {
  minutes_since_first_entry: 10,
  minutes_since_last_entry: 20,
  entry_status: 25,
  entries_days: 30,
  entries_number: 40,
  entries_since: 50,
  entries_before: 50,
  entries_days_since: 50,
  entries_days_before: 50,
  entries_today: 60,
  now: 70,
  now_isoweekday: 80,
  gate: 90,
  product: 200,
  variation: 200,
};
const UNKNOWN_HARDNESS = 1_000;
const MINUTE_MS = 60_000;

/** Checks the venue's own rule, for entries only. Throws where the rule compares incomparable values. */
export const checkVenueRule: Check = (ask) => {
  const rule = ask.policy.rules;
  if (rule === null) return null;
  if (!ask.place.clockTrusted) {
    const lasting = withoutTime(rule);
    return holds(lasting, ask) ? null : refusal(ask, 'rules', missFacts(lasting, ask));
  }
  if (holds(rule, ask)) return null;
  return refusal(
    ask,
    'rules',
    missFacts(rule, ask),
    orElse(null, () => nextHoldsMs(rule, ask)),
  );
};

/** A part of the rule that was not evaluated may throw when it is explained: the short text is used then. */
function orElse<T>(otherwise: T, explained: () => T): T {
  try {
    return explained();
  } catch {
    return otherwise;
  }
}

const missFacts = (rule: RuleNode, ask: Ask): ReasonFacts => orElse({}, () => nearest(rule, ask)?.facts ?? {});

const heavier = (a: Miss, b: Miss): boolean => a.hardness > b.hardness || (a.hardness === b.hardness && a.distance > b.distance);

/** Returns null where this part holds. */
function nearest(node: RuleNode, ask: Ask): Miss | null {
  if (holds(node, ask)) return null;
  const { operator, args } = isOperation(node) ? operation(node) : { operator: '', args: [] };
  if (operator !== 'and' && operator !== 'or') return leafMiss(operator, args, ask);
  const misses = args.map((part) => nearest(part, ask)).filter((miss) => miss !== null);
  const chosen = misses.reduce<Miss | null>((best, miss) => (best === null || heavier(miss, best) === (operator === 'and') ? miss : best), null);
  return chosen ?? { hardness: UNKNOWN_HARDNESS, distance: 0, facts: {} };
}

function leafMiss(operator: string, args: readonly RuleNode[], ask: Ask): Miss {
  const [left, right, tolerance] = args;
  const subject = left !== undefined && isOperation(left) ? operation(left) : null;
  const name = subject === null ? '' : subject.operator === 'var' ? String(subject.args[0]) : subject.operator;
  const hardness = HARDNESS[name] ?? UNKNOWN_HARDNESS;
  if (right === undefined || !Object.hasOwn(HARDNESS, name)) return { hardness: UNKNOWN_HARDNESS, distance: 0, facts: {} };
  switch (name) {
    case 'now': {
      const boundMs = Number(evaluate(right, ask)) + (operator === 'isBefore' ? 1 : -1) * Number(tolerance ?? 0) * MINUTE_MS;
      const facts: ReasonFacts =
        operator === 'isBefore' ? { rule_before: show(ask, boundMs) } : operator === 'isAfter' ? { rule_after: show(ask, boundMs, 'up') } : {};
      return { hardness, distance: Math.abs(ask.place.nowMs - boundMs), facts };
    }
    case 'product':
    case 'variation':
      return { hardness, distance: 0, facts: { rule_tier: ask.ticket.tier } };
    case 'gate':
      return { hardness, distance: 0, facts: { rule_gate: gateName(ask.place.gate) } };
    case 'entry_status':
      return { hardness, distance: 0, facts: { rule_entry_status: ask.usage.inside > 0 ? 'present' : 'absent' } };
    default:
      return { hardness, ...countMiss(operator, name, Number(evaluate(left as RuleNode, ask)), Number(evaluate(right, ask))) };
  }
}

/** Describes a number beyond its limit. Only a limit on entries has a text of its own. */
function countMiss(operator: string, name: string, value: number, bound: number): Omit<Miss, 'hardness'> {
  const distance = Math.abs(value - bound);
  // Entries are counted before this one: fewer than 3 allows three, at most 3 allows four.
  const limit = operator === '<' ? bound : operator === '<=' ? bound + 1 : null;
  if (limit === null || !Number.isFinite(limit)) return { distance, facts: {} };
  if (name === 'entries_today') return { distance, facts: { rule_entries_today: value, rule_limit_today: limit } };
  if (name === 'entries_days' || name.startsWith('entries_days_')) return { distance, facts: { rule_days: value, rule_limit_days: limit } };
  return name.startsWith('entries_') ? { distance, facts: { rule_entries: value, rule_limit: limit } } : { distance, facts: {} };
}

/** Times at which the rule is evaluated again, at most, and days ahead; later ones are not searched. */
const MAX_TRIES = 64;
const LOOK_AHEAD_DAYS = 8;

/** Returns the first moment at which the rule holds, of all moments that it names within the coming days; null where it finds none. */
function nextHoldsMs(rule: RuleNode, ask: Ask): number | null {
  const { nowMs } = ask.place;
  const days = [nowMs];
  for (let day = 1; day <= LOOK_AHEAD_DAYS; day++) days.push(nextDayMs(days[day - 1] as number, ask.event.timeZone));
  const moments = new Set(days.slice(1));
  for (const dayMs of days) collectMoments(rule, at(ask, dayMs), moments);
  const later = [...moments].filter((momentMs) => momentMs > nowMs).sort((a, b) => a - b);
  // isAfter is strict: the rule refuses the moment itself and accepts the next millisecond.
  return later.slice(0, MAX_TRIES).find((momentMs) => holds(rule, at(ask, momentMs + 1))) ?? null;
}

const at = (ask: Ask, nowMs: number): Ask => ({ ...ask, place: { ...ask.place, nowMs } });

/** Returns every moment that a condition names, as seen from the time of the presentation. */
function collectMoments(node: RuleNode, ask: Ask, moments: Set<number>): void {
  if (Array.isArray(node)) {
    for (const part of node as readonly RuleNode[]) collectMoments(part, ask, moments);
    return;
  }
  if (!isOperation(node)) return;
  const { operator, args } = operation(node);
  if (operator === 'isAfter') {
    const [, bound, tolerance] = args;
    const boundMs = bound === undefined ? Number.NaN : Number(evaluate(bound, ask)) - Number(tolerance ?? 0) * MINUTE_MS;
    if (Number.isFinite(boundMs)) moments.add(boundMs);
  }
  const [left, right] = args;
  const name = left !== undefined && isOperation(left) ? String(operation(left).args[0]) : '';
  const since = name === 'minutes_since_last_entry' ? ask.usage.lastInMs : name === 'minutes_since_first_entry' ? ask.usage.visits[0]?.atMs : null;
  if (since !== null && since !== undefined && typeof right === 'number') for (const minutes of [right, right + 1]) moments.add(since + minutes * MINUTE_MS);
  collectMoments(args as RuleNode[], ask, moments);
}
