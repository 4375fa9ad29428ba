/**
 * Evaluates the venue's own rule: JSON Logic with pretix's operators and variables. The only file that imports json-logic-js, whose table of
 * operators is global to the program; a rule must have passed `ruleProblem`, so it names none of the library's other operators.
 */
import jsonLogic, { type RulesLogic } from 'json-logic-js';
import type { Ask } from './check-context.ts';
import { isOperation, operation, type RuleNode, type RuleVariable } from './venue-rule.ts';
import { clockTodayMs, dateTimeMs, isoWeekday, localDay, localDays } from './venue-time.ts';

/** The inputs of the operators. Times are Unix ms. Read only as far as the rule needs. */
type RuleData = { readonly [Name in RuleVariable]: string | number | null } & { readonly ask: Ask };

const MINUTE_MS = 60_000;

/** Returns the variables of a presentation, as of its `nowMs`. A tier `12:34` is product 12, variation 34. */
function ruleData(ask: Ask): RuleData {
  const { ticket, place, event, usage } = ask;
  const colon = ticket.tier.indexOf(':');
  const minutesSince = (atMs: number | null | undefined): number =>
    atMs === null || atMs === undefined ? -1 : Math.max(0, Math.floor((place.nowMs - atMs) / MINUTE_MS));
  return {
    ask,
    product: colon < 0 ? ticket.tier : ticket.tier.slice(0, colon),
    variation: colon < 0 ? null : ticket.tier.slice(colon + 1),
    gate: place.gate,
    now: place.nowMs,
    get now_isoweekday() {
      return isoWeekday(place.nowMs, event.timeZone);
    },
    entries_number: usage.visits.length,
    get entries_today() {
      const today = localDay(place.nowMs, event.timeZone);
      return visitDays(ask).filter((day) => day === today).length;
    },
    get entries_days() {
      return new Set(visitDays(ask)).size;
    },
    minutes_since_first_entry: minutesSince(usage.visits[0]?.atMs),
    minutes_since_last_entry: minutesSince(usage.lastInMs),
    entry_status: usage.inside > 0 ? 'present' : 'absent',
  };
}

const visitDays = ({ usage, event }: Ask, keep: (atMs: number) => boolean = () => true): string[] =>
  localDays(usage.visits.map((visit) => visit.atMs).filter(keep), event.timeZone);

/** Returns a time that a rule builds, as Unix ms. Throws where the event has no such time. */
export function buildTime(ask: Ask, kind: unknown, value: unknown): number {
  const { event, place, policy } = ask;
  const known = (timeMs: number | null): number => {
    if (timeMs === null) throw new Error(`the rule needs ${String(kind)}, and the event has none`);
    return timeMs;
  };
  switch (kind) {
    case 'custom':
      return dateTimeMs(String(value), event.timeZone);
    case 'customtime':
      return clockTodayMs(place.nowMs, String(value), event.timeZone);
    case 'date_from':
      return known(event.startsAtMs);
    case 'date_to':
      return known(event.endsAtMs ?? event.startsAtMs);
    case 'date_admission':
      return policy.admission.from === null ? known(event.startsAtMs) : Date.parse(policy.admission.from);
    default:
      throw new Error(`unknown time ${String(kind)}`);
  }
}

function isBefore(a: unknown, b: unknown, toleranceMinutes: unknown): boolean {
  const toleranceMs = toleranceMinutes === undefined || toleranceMinutes === null ? 0 : Number(toleranceMinutes) * MINUTE_MS;
  if (typeof a !== 'number' || typeof b !== 'number' || !Number.isFinite(toleranceMs)) throw new TypeError('isBefore and isAfter compare times');
  return a < b + toleranceMs;
}

/** Compares ids as text; a gate by its full name or by its part after the site. */
function inList(value: unknown, list: unknown): boolean {
  if (!Array.isArray(list)) throw new TypeError('inList takes a list');
  if (value === null || value === undefined) return false;
  const text = String(value);
  const ids = list.map(String);
  return ids.includes(text) || (text.includes('/') && ids.includes(text.slice(text.indexOf('/') + 1)));
}

const time = (value: unknown): number => {
  if (typeof value !== 'number') throw new TypeError('a time is expected');
  return value;
};
const count = (ask: Ask, keep: (atMs: number) => boolean): number => ask.usage.visits.filter((visit) => keep(visit.atMs)).length;

const OPERATORS: Readonly<Record<string, (this: RuleData, ...args: unknown[]) => unknown>> = {
  objectList: (...items) => items,
  lookup: (_kind, id) => String(id),
  inList: (value, list) => inList(value, list),
  isBefore: (a, b, tolerance) => isBefore(a, b, tolerance),
  isAfter: (a, b, tolerance) => isBefore(b, a, tolerance),
  buildTime(kind, value) {
    return buildTime(this.ask, kind, value);
  },
  entries_since(since) {
    return count(this.ask, (atMs) => atMs >= time(since));
  },
  entries_before(before) {
    return count(this.ask, (atMs) => atMs < time(before));
  },
  entries_days_since(since) {
    return new Set(visitDays(this.ask, (atMs) => atMs >= time(since))).size;
  },
  entries_days_before(before) {
    return new Set(visitDays(this.ask, (atMs) => atMs < time(before))).size;
  },
};
for (const [name, operator] of Object.entries(OPERATORS)) jsonLogic.add_operation(name, operator);

/** Evaluates any part of a rule. Throws where it compares incomparable values. */
export const evaluate = (node: RuleNode, ask: Ask): unknown => jsonLogic.apply(node as RulesLogic, ruleData(ask));

/** Returns whether the rule admits. Throws where it compares incomparable values. */
export const holds = (node: RuleNode, ask: Ask): boolean => jsonLogic.truthy(evaluate(node, ask));

/** Variables and operators whose value changes with the clock. */
const TIME_WORDS: ReadonlySet<string> = new Set([
  'now',
  'now_isoweekday',
  'entries_today',
  'minutes_since_first_entry',
  'minutes_since_last_entry',
  'buildTime',
  'entries_since',
  'entries_before',
  'entries_days_since',
  'entries_days_before',
]);

/** Returns whether this part of a rule depends on the time of day. */
export function dependsOnTime(node: RuleNode): boolean {
  if (Array.isArray(node)) return (node as readonly RuleNode[]).some(dependsOnTime);
  if (!isOperation(node)) return false;
  const { operator, args } = operation(node);
  return operator === 'var' ? TIME_WORDS.has(String(args[0])) : TIME_WORDS.has(operator) || args.some(dependsOnTime);
}

/** Returns the rule with every condition on the time taken as met: what can be evaluated without a trusted clock. */
export function withoutTime(node: RuleNode): RuleNode {
  if (!isOperation(node)) return node;
  const { operator, args } = operation(node);
  if (operator === 'and' || operator === 'or') return { [operator]: args.map(withoutTime) };
  return dependsOnTime(node) ? true : node;
}
