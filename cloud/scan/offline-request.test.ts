import { expect, test } from 'vitest';
import { readScan, scannerClock } from './offline-request.ts';

const NOW_MS = Date.parse('2027-05-01T17:00:00Z');
const scanAt = (aheadMs: number, deviceTime?: unknown) => {
  const read = readScan(
    { ticket_id: 'T-1', event_id: 'EV1', scanned_at: new Date(NOW_MS + aheadMs).toISOString(), result: 'ALLOW' },
    0,
    scannerClock('arena/hand', deviceTime, NOW_MS),
    NOW_MS,
  );
  if (typeof read === 'string') throw new Error(read);
  return { aheadMs: read.atMs - NOW_MS, flags: read.flags };
};
const deviceAt = (aheadMs: number) => new Date(NOW_MS + aheadMs).toISOString();
const HOUR_MS = 3_600_000;

test('T8: a scan a little ahead of the cloud counts as now; one far ahead is flagged', () => {
  expect(scanAt(-3_600_000)).toEqual({ aheadMs: -3_600_000, flags: [] });
  expect(scanAt(500)).toEqual({ aheadMs: 0, flags: [] });
  expect(scanAt(30 * 86_400_000)).toEqual({ aheadMs: 0, flags: ['clock_untrusted'] });
  expect(scanAt(10 * 366 * 86_400_000)).toEqual({ aheadMs: 0, flags: ['clock_untrusted'] });
});

test('T8: hours ahead without a time of the device is flagged, and counts at its arrival', () => {
  expect(scanAt(2 * HOUR_MS)).toEqual({ aheadMs: 0, flags: ['clock_untrusted'] });
  expect(scanAt(60_000)).toEqual({ aheadMs: 0, flags: ['clock_untrusted'] });
});

test.each([
  [-2 * HOUR_MS, 'slow'],
  [2 * HOUR_MS, 'ahead'],
  [-400 * 24 * HOUR_MS, 'a year slow'],
])('T8: a clock that is %d ms off (%s) is measured by device_time: the scan counts when it happened, flagged', (offMs) => {
  // Ten minutes ago by a true clock.
  expect(scanAt(offMs - 600_000, deviceAt(offMs))).toEqual({ aheadMs: -600_000, flags: ['clock_untrusted'] });
});

test('T8: a clock that is right is measured too, and a scan after the time of its own request is flagged', () => {
  expect(scanAt(-600_000, deviceAt(-1_200))).toEqual({ aheadMs: -600_000, flags: [] });
  expect(scanAt(HOUR_MS, deviceAt(0))).toEqual({ aheadMs: 0, flags: ['clock_untrusted'] });
});

test.each([undefined, null, 7, 'yesterday', '2027-05-01T17:00', {}])('T8: %j measures nothing, and undoes no scan', (deviceTime) => {
  expect(scannerClock('arena/hand', deviceTime, NOW_MS)).toMatchObject({ measured: false, offsetMs: 0 });
});

test('T8: scans of one session share a clock, those after it was set anew have another', () => {
  const [first, later, anew] = [deviceAt(-2 * HOUR_MS), deviceAt(-2 * HOUR_MS + 900), deviceAt(-1_000)].map((at) => scannerClock('arena/hand', at, NOW_MS));
  expect(first).toEqual(later);
  expect(anew?.bootId).not.toBe(first?.bootId);
  expect(scannerClock(`${'a'.repeat(31)}/${'b'.repeat(31)}`, deviceAt(-(10 ** 12)), NOW_MS).bootId.length).toBeLessThanOrEqual(64);
});
