import { expect, test } from 'vitest';
import { readTicketFields } from './ticket-fields.ts';

const read = (validFrom: string, validUntil: string) =>
  readTicketFields({ ticket_id: 'T-1', code: '8F3A61C02B7D4E95', tier: 'standard', valid_from: validFrom, valid_until: validUntil }, 'EV1');

test('a ticket whose validity ends before it begins is refused', () => {
  expect(read('2027-05-01T10:00:00Z', '2027-05-01T12:00:00Z').ok).toBe(true);
  const wrong = read('2027-05-01T12:00:00Z', '2027-05-01T10:00:00Z');
  expect(wrong.ok).toBe(false);
  expect(wrong.ok ? [] : wrong.problems.map(({ field }) => field)).toEqual([expect.stringMatching(/^valid_/)]);
});
