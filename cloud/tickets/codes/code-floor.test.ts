import { expect, test } from 'vitest';
import { notACode, tooPlain, watchZeros } from './code-floor.ts';

const problemOf = (code: string) => (notACode(code) ?? tooPlain(code))?.what;

test.each([
  [
    'placeholders',
    [
      'N/A',
      'n/a',
      '#N/A',
      '-',
      '--',
      '—',
      '?',
      '.',
      'null',
      'NULL',
      'None',
      'undefined',
      'TBD',
      'tba',
      '(none)',
      '[n/a]',
      'not available',
      'Placeholder',
      'keine',
      'Unassigned',
    ],
  ],
  [
    'errors of spreadsheets',
    ['#REF!', '#VALUE!', '#NAME?', '#DIV/0!', '#NUM!', '#NULL!', '#SPILL!', '#WERT!', '#BEZUG!', '#NV', '#ÉQUIV!', '#¡VALOR!', '#¿NOMBRE?', 'Err:502'],
  ],
  [
    'numbers that a spreadsheet made short',
    ['1.00E+11', '1,00E+11', '4.00638E+12', '4.00638e+12', '1E+11', '4.00638E12', '-1.5E+03', '123456789012.0', '123456789012,00'],
  ],
  ['dates and times', ['2026-07-01', '2026/7/1', '01/07/2026', '12/31/2026', '1.7.2026', '01-Jul-26', '1-Dec-2026', '20:15:00', '9:30:00']],
  ['headers', ['code', 'Code', 'Ticket Code', 'ticket_code', 'BARCODE', 'Strichcode', 'QR-Code', 'ticket_id']],
  ['patterns', ['00000000', '1111111111111', 'ABABABAB', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', '123123123123', 'abcdabcdabcdabcd']],
  ['what is short', ['1', '12345', 'x', 'A-1']],
])('K4: no code, whatever is allowed: %s', (_, codes) => {
  for (const code of codes) expect({ code, problem: problemOf(code) }).toEqual({ code, problem: expect.any(String) });
});

test('K4: the error names no code', () => {
  for (const code of ['#REF!', '4.00638E+12', '00000000', 'A-1']) expect(JSON.stringify(notACode(code) ?? tooPlain(code))).not.toContain(code);
});

test('K4: a code that stands on a ticket is one', () => {
  const good = [
    ...[
      '4006381333931',
      '100234',
      '200000000017',
      '012345678905',
      '12E45678',
      '1E234567890123456789',
      '48231E0912',
      'VIP-2027-0042',
      '#4711-AB',
      '2026-0701',
      '31-12-99-01',
      '45/67/2026',
      '12-ABC-34',
      '20261231',
      '26:15:00',
      'N/A-4711-22',
    ],
    ...['Vq3mJk0TQyC2b7wEw2Xk1A', '0c5a3a60-4b8f-4a53-9e2c-a1d7a90c33d1', 'MFRGGZDFMZTWQ2LKNNWG23TPOA', 'CODE-7F3A-19', '12.34.56', '12341234', 'nonesuch42'],
  ];
  for (const code of good) expect({ code, problem: problemOf(code) }).toEqual({ code, problem: undefined });
});

test('K4: lost leading zeros are noticed where every code is a number, some are shorter, and none begins with 0', () => {
  const warned = (...codes: string[]) => {
    const watch = watchZeros();
    for (const [index, code] of codes.entries()) watch.look(code, index + 2);
    return watch.warning();
  };
  expect(warned('123456789012', '23456789012', '345678901234', '5678901234')).toEqual({
    line: 3,
    text: expect.stringMatching(/^code: 2 codes have fewer digits than the 12 .*leading zeros/),
  });
  expect(warned('123456789012', '012345678901')).toBeNull();
  expect(warned('123456789012', '345678901234')).toBeNull();
  expect(warned('123456789012', '23456789012', 'ABC')).toBeNull();
  expect(warned()).toBeNull();
});
