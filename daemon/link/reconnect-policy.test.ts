import { expect, test } from 'vitest';
import { createBackoff } from './backoff.ts';
import { learnProtocol, linkFault, UNKNOWN_PROTOCOL } from './reconnect-policy.ts';

test('learnProtocol tries MQTT 5 first and keeps 3.1.1 for a broker that refuses 5', () => {
  expect(UNKNOWN_PROTOCOL.next).toBe(5);
  const lacks = learnProtocol(UNKNOWN_PROTOCOL, 5, 'protocol');
  expect(lacks.next).toBe(4);
  for (const end of ['lost', 'unreachable', 'refused', 'taken_over'] as const) expect(learnProtocol(lacks, 4, end).next, end).toBe(4);
  // The broker was replaced by one that speaks 5 alone.
  expect(learnProtocol(lacks, 4, 'protocol').next).toBe(5);
});

test('learnProtocol tries the other version after silence, and 5 again after a loss', () => {
  const guess = learnProtocol(UNKNOWN_PROTOCOL, 5, 'silent');
  expect(guess.next).toBe(4);
  expect(learnProtocol(guess, 4, 'silent').next).toBe(5);
  expect(learnProtocol(guess, 4, 'lost').next).toBe(5);
});

test('linkFault gives a hint and hides secrets of the address', () => {
  const fault = linkFault('mqtts://user:secret@broker.example:8883', { kind: 'unreachable', cause: 'certificate is not yet valid', code: null });
  expect(fault.operation).toBe('connect to mqtts://broker.example:8883');
  expect(fault.hint).toMatch(/clock/);
  expect(JSON.stringify(fault)).not.toContain('secret');
  expect(linkFault('mqtt://x', { kind: 'taken_over', cause: '', code: 0x8e })).toMatchObject({
    healsItself: false,
    hint: expect.stringMatching(/copied SD card/),
  });
  expect(linkFault('mqtt://x', { kind: 'refused', cause: '', code: 0x87 }).hint).toMatch(/ACL/);
});

test('waits ever longer within its bounds, and briefly again after a success', () => {
  for (const random of [() => 0, () => 0.999_999]) {
    const backoff = createBackoff({ firstMs: 500, maxMs: 30_000, random });
    const waits = Array.from({ length: 40 }, () => backoff.next());
    for (const wait of waits) expect(wait >= 250 && wait <= 30_000).toBe(true);
    expect(waits.every((wait, i) => i === 0 || wait >= (waits[i - 1] as number))).toBe(true);
    expect(waits.at(-1)).toBeGreaterThanOrEqual(15_000);
    backoff.reset();
    expect(backoff.next()).toBeLessThanOrEqual(500);
  }
});
