import { expect, test } from 'vitest';
import { GateName, isCloudLedger, LedgerName, LedgerVector, SiteId, scannerLedger, splitGateName, Timestamp, writerOf } from './ids.ts';

const LONGEST = 'a'.repeat(31);

test.each(['arena/north-03', `${LONGEST}/${LONGEST}`, '1/2', 'arena/cloud-1', 'cloudy/a'])('%s is a gate', (name) => {
  expect(GateName.safeParse(name).success).toBe(true);
  expect(LedgerName.safeParse(name).success).toBe(true);
  expect(Object.values(splitGateName(name)).join('/')).toBe(name);
});
test.each([
  '',
  'arena',
  'arena/',
  '/north',
  'arena/north/03',
  'Arena/north',
  'arena/-north',
  'arena/_all',
  `${LONGEST}a/x`,
  'cloud/north',
  'arena/north\n',
  'arena/north 1',
])('%j is no gate and no ledger', (name) => {
  expect(GateName.safeParse(name).success).toBe(false);
  expect(LedgerName.safeParse(name).success).toBe(false);
});
test('T7: the ledger of a scanner has a name of its own, which no gate, certificate or user can have', () => {
  const longest = scannerLedger(`${LONGEST}/${LONGEST}`);
  expect(longest).toHaveLength(64);
  for (const ledger of [longest, scannerLedger('arena/phone-4')]) {
    expect(LedgerName.safeParse(ledger).success).toBe(true);
    expect(GateName.safeParse(ledger).success).toBe(false);
    expect(isCloudLedger(ledger)).toBe(true);
  }
  expect(writerOf('arena/@phone-4')).toBe('arena/phone-4');
  expect(isCloudLedger('arena/phone-4')).toBe(false);
  for (const wrong of ['arena/@', 'arena/@@a', 'arena/@cloud', `arena/@${LONGEST}a`, '@arena/a', 'arena/a@b'])
    expect(LedgerName.safeParse(wrong).success).toBe(false);
});
test('the cloud writes a ledger of its own, and is no gate and no site', () => {
  expect(LedgerName.safeParse('arena/cloud').success).toBe(true);
  expect(GateName.safeParse('arena/cloud').success).toBe(false);
  expect(SiteId.safeParse('cloud').success).toBe(false);
  expect(LedgerVector.safeParse({ 'arena/cloud': [1, 0], 'arena/north-03': [1_809_190_800, 12] }).success).toBe(true);
  expect(LedgerVector.safeParse({ cloud: [1, 0] }).success).toBe(false);
});
test.each([
  '2027-02-29T10:00:00.000Z',
  '2027-05-01T10:00:00Z',
  '2027-05-01T10:00:00.000+00:00',
  '2027-05-01T24:00:00.000Z',
  '2027-05-01 10:00:00.000Z',
  '2027-05-01T10:00:00.0000Z',
])('%s is no time of ours', (text) => {
  expect(Timestamp.safeParse(text).success).toBe(false);
});
test('a time is what toISOString writes', () => {
  expect(Timestamp.safeParse(new Date(0).toISOString()).success).toBe(true);
});
