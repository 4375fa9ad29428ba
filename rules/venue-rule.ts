/**
 * Checks a venue's own rule: JSON Logic with the operators and variables of pretix's check-in rules. Everything that a rule may use is named here,
 * so it can reach nothing else; depth and size are bounded.
 */
import { z } from 'zod';
import { cutText } from '../contract/text.ts';

/** A rule as it stands in a policy. */
export type RuleNode = boolean | number | string | null | readonly RuleNode[] | { readonly [operator: string]: RuleNode };

export const RULE_VARIABLES = [
  'product',
  'variation',
  'gate',
  'now',
  'now_isoweekday',
  'entries_number',
  'entries_today',
  'entries_days',
  'minutes_since_first_entry',
  'minutes_since_last_entry',
  'entry_status',
] as const;
export type RuleVariable = (typeof RULE_VARIABLES)[number];

/** Smallest and largest number of arguments, by operator. */
const ARITY: Readonly<Record<string, readonly [number, number]>> = {
  and: [1, 64],
  or: [1, 64],
  '!': [1, 1],
  '!!': [1, 1],
  '==': [2, 2],
  '===': [2, 2],
  '!=': [2, 2],
  '!==': [2, 2],
  '<': [2, 3],
  '<=': [2, 3],
  '>': [2, 2],
  '>=': [2, 2],
  inList: [2, 2],
  objectList: [0, 512],
  lookup: [2, 3],
  isBefore: [2, 3],
  isAfter: [2, 3],
  buildTime: [1, 2],
  var: [1, 1],
  entries_since: [1, 1],
  entries_before: [1, 1],
  entries_days_since: [1, 1],
  entries_days_before: [1, 1],
};
const MAX_DEPTH = 16;
const MAX_NODES = 2_000;
const MAX_STRING_CHARS = 200;
const LOOKUP_KINDS = ['product', 'variation', 'gate'];
const EVENT_TIMES = ['date_from', 'date_to', 'date_admission'];
const CLOCK = /^([01]\d|2[0-3]):[0-5]\d(:[0-5]\d)?$/;
const DATE_TIME = /^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?$/;

/** Returns the operator of a rule's object and its arguments, also where a single argument has no list. */
export function operation(node: { readonly [operator: string]: RuleNode }): { readonly operator: string; readonly args: readonly RuleNode[] } {
  const operator = Object.keys(node)[0] ?? '';
  const values = Object.hasOwn(node, operator) ? (node[operator] as RuleNode) : [];
  return { operator, args: Array.isArray(values) ? (values as readonly RuleNode[]) : [values] };
}

export const isOperation = (node: RuleNode): node is { readonly [operator: string]: RuleNode } =>
  typeof node === 'object' && node !== null && !Array.isArray(node);

/** Returns the error of a rule, or null. Total; never recurses deeper than its bound. */
export function ruleProblem(rule: unknown): string | null {
  let nodes = 0;
  const walk = (node: unknown, depth: number): string | null => {
    if (++nodes > MAX_NODES) return `more than ${MAX_NODES} parts`;
    if (depth > MAX_DEPTH) return `nested deeper than ${MAX_DEPTH}`;
    if (node === null || typeof node === 'boolean') return null;
    if (typeof node === 'number') return Number.isFinite(node) ? null : 'a number that is not finite';
    if (typeof node === 'string') return node.length <= MAX_STRING_CHARS ? null : `a text longer than ${MAX_STRING_CHARS} characters`;
    if (typeof node !== 'object') return `${typeof node} is not JSON`;
    if (Array.isArray(node)) return firstProblem(node, depth);
    if (Object.keys(node).length !== 1) return 'an operation is an object with exactly one key, its operator';
    const { operator, args } = operation(node as { readonly [operator: string]: RuleNode });
    const arity = Object.hasOwn(ARITY, operator) ? ARITY[operator] : undefined;
    if (arity === undefined) return `unknown operator ${JSON.stringify(cutText(operator, 40))}`;
    if (args.length < arity[0] || args.length > arity[1])
      return `${operator} takes ${arity[0] === arity[1] ? arity[0] : `${arity[0]} to ${arity[1]}`} arguments`;
    return literalProblem(operator, args) ?? firstProblem(args, depth);
  };
  const firstProblem = (parts: readonly unknown[], depth: number): string | null => {
    for (const part of parts) {
      const problem = walk(part, depth + 1);
      if (problem !== null) return problem;
    }
    return null;
  };
  if (typeof rule !== 'boolean' && !isOperation(rule as RuleNode)) return 'a rule is an operation or true or false';
  return walk(rule, 0);
}

/** Operators whose arguments are literal names; only known names are accepted. */
function literalProblem(operator: string, args: readonly RuleNode[]): string | null {
  const [first, second] = args;
  if (operator === 'var') return RULE_VARIABLES.some((name) => name === first) ? null : `unknown variable ${cutText(JSON.stringify(first) ?? '', 40)}`;
  if (operator === 'lookup') {
    if (!LOOKUP_KINDS.some((kind) => kind === first)) return `lookup is of ${LOOKUP_KINDS.join(', ')}`;
    return typeof second === 'string' || typeof second === 'number' ? null : 'lookup takes an id';
  }
  if (operator !== 'buildTime') return null;
  if (EVENT_TIMES.some((kind) => kind === first)) return null;
  if (first === 'customtime') return typeof second === 'string' && CLOCK.test(second) ? null : 'buildTime customtime takes a clock time such as 09:00';
  if (first !== 'custom') return `buildTime is of custom, customtime, ${EVENT_TIMES.join(', ')}`;
  return typeof second === 'string' && isDateTime(second) ? null : 'buildTime custom takes a date and time such as 2027-05-01T09:00:00+02:00';
}

function isDateTime(text: string): boolean {
  if (!DATE_TIME.test(text)) return false;
  try {
    Temporal.PlainDateTime.from(text.replace(/Z$/, ''));
    return true;
  } catch {
    return false;
  }
}

/** The rule's place in a policy. */
export const VenueRule = z.custom<RuleNode>().superRefine((rule, context) => {
  const problem = ruleProblem(rule);
  if (problem !== null) context.addIssue({ code: 'custom', message: `not a valid rule: ${problem}` });
});
