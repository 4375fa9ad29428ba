import { expect, test } from 'vitest';
import { RENEWAL_SPREAD_DAYS, renewalDueMs } from './renewal.ts';

const DAY_MS = 86_400_000;

test('B5: certificates are due from half of their life on, and the gates of a venue on different days of a month', () => {
  const dueDays = Array.from({ length: 300 }, (_, n) => renewalDueMs({ gate: `arena/north-${n}`, beginsMs: 0, endsMs: 825 * DAY_MS }) / DAY_MS);
  expect(Math.min(...dueDays)).toBeGreaterThanOrEqual(412.5);
  expect(Math.max(...dueDays)).toBeLessThan(412.5 + RENEWAL_SPREAD_DAYS);
  const perDay = new Map<number, number>();
  for (const day of dueDays) perDay.set(Math.floor(day), (perDay.get(Math.floor(day)) ?? 0) + 1);
  expect(Math.max(...perDay.values())).toBeLessThan(30);
  expect(perDay.size).toBeGreaterThan(25);
});

test('B5: a short life spreads over a tenth of it', () => {
  for (let n = 0; n < 50; n++) {
    const due = renewalDueMs({ gate: `a/g${n}`, beginsMs: 0, endsMs: 10 * DAY_MS }) / DAY_MS;
    expect(due).toBeGreaterThanOrEqual(5);
    expect(due).toBeLessThan(6);
  }
});
