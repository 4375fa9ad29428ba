import { expect, test } from 'vitest';
import { createLogLimit, LIMIT_LINES, LIMIT_PERIOD_MS, MAX_LIMITED_TEXTS } from './rate-limit.ts';

function setUp() {
  const lines: string[] = [];
  const due: { ms: number; call: () => void }[] = [];
  const limit = createLogLimit<string>({
    write: (line) => lines.push(line),
    summary: (line, leftOut) => lines.push(`${line} and ${leftOut - 1} before it`),
    after: (ms, call) => due.push({ ms, call }),
  });
  return { lines, limit, due, pass: () => due.splice(0).forEach(({ call }) => void call()) };
}

test('the first lines of a text are written, the rest of a period is one line with their number', () => {
  const { lines, limit, due, pass } = setUp();
  for (let n = 1; n <= 100_000; n++) limit.take('bad', `bad ${n}`);
  limit.take('other', 'other');
  const first = Array.from({ length: LIMIT_LINES }, (_, n) => `bad ${n + 1}`);
  expect(lines).toEqual([...first, 'other']);
  expect(due.map(({ ms }) => ms)).toEqual([LIMIT_PERIOD_MS, LIMIT_PERIOD_MS]);
  lines.length = 0;
  pass();
  expect(lines).toEqual([`bad 100000 and ${100_000 - LIMIT_LINES - 1} before it`]);
  limit.take('bad', 'bad again');
  expect(lines.at(-1)).toBe('bad again');
});

test('ever new texts take no more memory, and nothing that was left out goes untold', () => {
  const { lines, limit, due } = setUp();
  for (let n = 0; n <= LIMIT_LINES; n++) limit.take('first', `first ${n}`);
  for (let n = 0; n < MAX_LIMITED_TEXTS; n++) limit.take(`text ${n}`, 'x');
  expect(lines).toContain(`first ${LIMIT_LINES} and 0 before it`);
  for (let n = 0; n <= LIMIT_LINES; n++) limit.take('last', `last ${n}`);
  limit.flush();
  expect(lines.at(-1)).toBe(`last ${LIMIT_LINES} and 0 before it`);
  // A timer of a text that began anew meanwhile says nothing.
  lines.length = 0;
  for (let n = 0; n <= LIMIT_LINES; n++) limit.take('first', `first ${n}`);
  due[0]?.call();
  expect(lines).toHaveLength(LIMIT_LINES);
});
