import { expect, test, vi } from 'vitest';
import { CliError, EXIT, print, printFailure } from './exit-codes.ts';
import { clockTime, columns, dayTime } from './format.ts';
import { lineText } from './lane-view.ts';

const EVIL = 'x\x1b[2J\u009b31m\r\ny';

test("S6: a row's, a reader's and a lane's words are shown, never obeyed by a terminal", () => {
  expect(columns([['1/1', EVIL]])).toBe('1/1  x\\u001b[2J\\u009b31m\\u000d\\ny');
  expect(lineText({ at: '2026-05-01T12:00:00.000Z', direction: 'in', kind: 'refused', words: EVIL } as Parameters<typeof lineText>[0])).toContain(
    'x\\u001b[2J',
  );
  let said = '';
  const out = vi.spyOn(process.stdout, 'write').mockImplementation((text) => Boolean((said += String(text))));
  const err = vi.spyOn(process.stderr, 'write').mockImplementation((text) => Boolean((said += String(text))));
  try {
    print(false, null, () => EVIL);
    print(true, { words: EVIL }, () => '');
    printFailure(new CliError(EXIT.failed, EVIL, EVIL));
    printFailure(new Error(EVIL));
  } finally {
    out.mockRestore();
    err.mockRestore();
  }
  expect(said).not.toMatch(/[\0-\x08\x0b-\x1f\x7f-\x9f]/);
  expect(said.match(/x\\u001b/g)?.length).toBeGreaterThanOrEqual(5);
});

test('T15: a time of this machine names its zone, and its date is of that zone', () => {
  const zone = process.env['TZ'];
  try {
    for (const [name, day, time] of [
      ['UTC', '2026-06-30', '22:30:00 UTC'],
      ['Europe/Berlin', '2026-07-01', '00:30:00 UTC+2'],
      ['America/St_Johns', '2026-06-30', '20:00:00 UTC-2:30'],
      ['Asia/Kathmandu', '2026-07-01', '04:15:00 UTC+5:45'],
    ] as const) {
      process.env['TZ'] = name;
      const at = '2026-06-30T22:30:00.000Z';
      expect([clockTime(at), dayTime(at)], name).toEqual([time, `${day} ${time}`]);
      expect(lineText({ at, direction: 'in', kind: 'refused', words: 'already used at 00:29' } as Parameters<typeof lineText>[0])).toBe(
        `${time} in  already used at 00:29`,
      );
    }
  } finally {
    if (zone === undefined) delete process.env['TZ'];
    else process.env['TZ'] = zone;
  }
});
