import { expect, test } from 'vitest';
import { z } from 'zod';
import { describeIssue } from './schema-errors.ts';

/** How a sentence of the library begins. */
const LIBRARY = /Invalid |Too (big|small)|Unrecognized|expected|received/;

test.each<[z.ZodType, unknown, string]>([
  [z.string(), 3, 'must be a text in quotes'],
  [z.object({ a: z.int() }), {}, 'is missing: give a number'],
  [z.int(), 1.5, 'must be a whole number'],
  [z.boolean(), 'yes', 'must be true or false'],
  [z.array(z.string()), 'A', 'must be a list'],
  [z.object({}), [], 'must be an object'],
  [z.int().max(3), 4, 'must be at most 3'],
  [z.number().positive(), 0, 'must be more than 0'],
  [z.string().min(1), '', 'must not be empty'],
  [z.string().max(2), 'abc', 'must have at most 2 characters'],
  [z.array(z.int()).min(2), [1], 'must have at least 2 entries'],
  [z.enum(['in', 'out']), 'up', 'must be one of in, out'],
  [z.literal(1), 2, 'must be 1'],
  [z.iso.datetime(), 'yesterday', 'must be a time such as 2026-07-01T18:00:00.000Z'],
  [z.string().regex(/^x$/), 'y', 'is not written as it must be'],
  [z.strictObject({ a: z.int().optional() }), { b: 1 }, 'knows no b: check the spelling, or leave it out'],
  [z.int().multipleOf(5), 7, 'must be a multiple of 5'],
  [z.record(z.enum(['x']), z.int()), { y: 1 }, 'is missing: give a number'],
  [z.record(z.string().regex(/^x$/, 'a zone is named x'), z.int()), { y: 1 }, 'a zone is named x'],
  [z.union([z.string(), z.object({ n: z.int() })]), { n: 'a' }, 'n: must be a number'],
  [z.union([z.string(), z.int()]), true, 'is none of what may stand here'],
  [z.string().regex(/^x$/, 'an id is an x'), 'y', 'an id is an x'],
])('%#: %s', (schema, value, words) => {
  const issue = schema.safeParse(value).error?.issues[0] as z.core.$ZodIssue;
  expect(describeIssue(issue)).toBe(words);
  expect(describeIssue(issue)).not.toMatch(LIBRARY);
});
