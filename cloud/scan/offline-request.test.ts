import { expect, test } from 'vitest';
import { readScan } from './offline-request.ts';

const NOW_MS = Date.parse('2027-05-01T17:00:00Z');
const scanAt = (aheadMs: number) => {
  const read = readScan({ ticket_id: 'T-1', event_id: 'EV1', scanned_at: new Date(NOW_MS + aheadMs).toISOString(), result: 'ALLOW' }, 0, 'arena/hand', NOW_MS);
  if (typeof read === 'string') throw new Error(read);
  return { aheadMs: read.atMs - NOW_MS, flags: read.flags };
};

test('T8: a scan a little ahead of the cloud counts as now; one far ahead is flagged', () => {
  expect(scanAt(-3_600_000)).toEqual({ aheadMs: -3_600_000, flags: [] });
  expect(scanAt(500)).toEqual({ aheadMs: 0, flags: [] });
  expect(scanAt(30 * 86_400_000)).toEqual({ aheadMs: 0, flags: ['clock_untrusted'] });
  expect(scanAt(10 * 366 * 86_400_000)).toEqual({ aheadMs: 0, flags: ['clock_untrusted'] });
});
