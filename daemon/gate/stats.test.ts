import { expect, test } from 'vitest';
import { StatsMessage } from '../../contract/messages.ts';
import { createStats } from './stats.ts';

test("a window is taken and begun anew; totals go on; the message is the contract's", () => {
  const stats = createStats(0);
  stats.refused('gap');
  stats.refused('gap');
  stats.notTaken('busy');
  stats.notTaken('held');
  stats.notTaken('held');
  stats.passage('passed', 'in', true);
  stats.passage('passed', 'out', true);
  stats.passage('passed', 'in', false);
  stats.passage('forced', 'in', false);
  stats.passage('returned', 'in', true);
  stats.passage('stuck', 'in', true);
  for (let us = 1; us <= 100; us += 1) stats.decided(us);
  const window = stats.takeWindow(60_000);
  expect(window).toEqual({
    window_s: 60,
    admissions: 1,
    refusals: 2,
    passages: 4,
    returned: 1,
    exits: 1,
    decision_p50_us: 51,
    decision_p99_us: 100,
    refused_gap: 2,
    not_taken_busy: 1,
    not_taken_held: 2,
  });
  expect(StatsMessage.safeParse({ schema: 1, ...window }).success).toBe(true);
  expect(stats.takeWindow(120_000)).toMatchObject({ window_s: 60, admissions: 0, refusals: 0, decision_p50_us: 0 });
  expect(StatsMessage.safeParse({ schema: 1, ...window, not_taken_bored: 1 }).success).toBe(false);
  expect(stats.totals()).toEqual({ admissions: 1, refusals: 2, passages: 4, notTaken: { busy: 1, held: 2, repeat: 0, open: 0 } });
});

test('latencies are a bounded, fair sample', () => {
  let seed = 1;
  const stats = createStats(0, () => {
    seed = (seed * 48_271) % 2_147_483_647;
    return seed / 2_147_483_647;
  });
  for (let us = 0; us < 100_000; us += 1) stats.decided(us);
  const { decision_p50_us, decision_p99_us } = stats.takeWindow(1) as { decision_p50_us: number; decision_p99_us: number };
  expect(Math.abs(decision_p50_us - 50_000)).toBeLessThan(6_000);
  expect(Math.abs(decision_p99_us - 99_000)).toBeLessThan(1_500);
});
