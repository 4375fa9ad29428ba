/**
 * Describes the error of a value for its author: the schema library's own messages speak of types and patterns. Messages that our schemas set
 * themselves are kept.
 */
import type { z } from 'zod';

/** Names a type in a message. */
const TYPES: Readonly<Record<string, string>> = {
  string: 'a text in quotes',
  number: 'a number',
  int: 'a whole number',
  boolean: 'true or false',
  array: 'a list',
  object: 'an object',
  record: 'an object',
  null: 'null',
  date: 'a time',
};
const FORMATS: Readonly<Record<string, string>> = {
  datetime: 'a time such as 2026-07-01T18:00:00.000Z',
  date: 'a date such as 2026-07-01',
  uuid: 'a UUID',
  guid: 'a UUID',
  url: 'an address such as https://cloud.example',
  base64: 'Base64',
  json_string: 'JSON',
};
/** Matches the beginnings of the library's own messages. */
const LIBRARY = /^(Invalid|Too big|Too small|Unrecognized)\b/;
/** Values that a message lists; further ones are counted. */
const MAX_LISTED = 20;

/** Returns one sentence without a full stop, such as `must be a whole number`. Repeats nothing of the value but names of keys. Total. */
export function describeIssue(issue: z.core.$ZodIssue): string {
  if (!LIBRARY.test(issue.message)) return issue.message;
  switch (issue.code) {
    case 'invalid_type': {
      const wanted = TYPES[issue.expected] ?? issue.expected;
      return issue.message.endsWith('received undefined') ? `is missing: give ${wanted}` : `must be ${wanted}`;
    }
    case 'too_big':
      return `must ${amount(issue.origin, issue.inclusive === false ? 'less than' : 'at most', issue.maximum)}`;
    case 'too_small':
      return issue.origin === 'string' && issue.minimum === 1
        ? 'must not be empty'
        : `must ${amount(issue.origin, issue.inclusive === false ? 'more than' : 'at least', issue.minimum)}`;
    case 'invalid_format':
      return FORMATS[issue.format] === undefined ? 'is not written as it must be' : `must be ${FORMATS[issue.format]}`;
    case 'not_multiple_of':
      return `must be a multiple of ${issue.divisor}`;
    case 'unrecognized_keys':
      return `knows no ${issue.keys.slice(0, MAX_LISTED).join(', ')}: check the spelling, or leave it out`;
    case 'invalid_value':
      return issue.values.length === 1 ? `must be ${String(issue.values[0])}` : `must be one of ${listed(issue.values)}`;
    case 'invalid_key':
    case 'invalid_element': {
      const [first] = issue.issues;
      return first === undefined ? 'has a name that it must not have' : describeIssue(first);
    }
    case 'invalid_union': {
      // Of several alternatives it describes the nearest: the one with the fewest errors that is not simply of another type.
      const [nearest] = issue.errors
        .filter(([first]) => first !== undefined && !(first.code === 'invalid_type' && first.path.length === 0))
        .toSorted((a, b) => a.length - b.length);
      const [first] = nearest ?? [];
      return first === undefined ? 'is none of what may stand here' : `${first.path.map((part) => `${String(part)}: `).join('')}${describeIssue(first)}`;
    }
    default:
      return 'is not as it must be';
  }
}

function amount(origin: string, bound: string, limit: number | bigint): string {
  if (origin === 'string') return `have ${bound} ${limit} characters`;
  if (origin === 'array' || origin === 'set') return `have ${bound} ${limit} entries`;
  return `be ${bound} ${limit}`;
}

const listed = (values: readonly unknown[]): string =>
  values.slice(0, MAX_LISTED).map(String).join(', ') + (values.length > MAX_LISTED ? ` and ${values.length - MAX_LISTED} others` : '');
