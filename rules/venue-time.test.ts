/** Local days of many times. */
import { expect, test } from 'vitest';
import { localDay, localDays } from './venue-time.ts';

test('the days of many times are those of each alone, across changes of the clocks and in any order', () => {
  for (const timeZone of ['Europe/Berlin', 'America/Sao_Paulo', 'Pacific/Apia', 'UTC']) {
    const times = Array.from({ length: 400 }, (_, index) => Date.parse('2027-03-20T00:00:00Z') + index * 3_600_000 * 1.3);
    const shuffled = times.toSorted((a, b) => Math.sin(a) - Math.sin(b));
    for (const list of [times, shuffled]) expect(localDays(list, timeZone)).toEqual(list.map((atMs) => localDay(atMs, timeZone)));
  }
});
