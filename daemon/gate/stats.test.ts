import { expect, test } from 'vitest';
import { StatsMessage } from '../../contract/messages.ts';
import { createTally } from './stats.ts';

test("a window is taken and begun anew; totals go on; the message is the contract's", () => {
  const tally = createTally(0);
  tally.refused('gap');
  tally.refused('gap');
  tally.notTaken('busy');
  tally.notTaken('held');
  tally.notTaken('held');
  tally.passage('passed', 'in', true);
  tally.passage('passed', 'out', true);
  tally.passage('passed', 'in', false);
  tally.passage('forced', 'in', false);
  tally.passage('returned', 'in', true);
  tally.passage('stuck', 'in', true);
  for (let us = 1; us <= 100; us += 1) tally.decided(us);
  const stats = tally.take(60_000);
  expect(stats).toEqual({
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
  expect(StatsMessage.safeParse({ schema: 1, ...stats }).success).toBe(true);
  expect(tally.take(120_000)).toMatchObject({ window_s: 60, admissions: 0, refusals: 0, decision_p50_us: 0 });
  expect(StatsMessage.safeParse({ schema: 1, ...stats, not_taken_bored: 1 }).success).toBe(false);
  expect(tally.totals()).toEqual({ admissions: 1, refusals: 2, passages: 4, notTaken: { busy: 1, held: 2, repeat: 0, open: 0 } });
});

test('latencies are a bounded, fair sample', () => {
  let seed = 1;
  const tally = createTally(0, () => {
    seed = (seed * 48_271) % 2_147_483_647;
    return seed / 2_147_483_647;
  });
  for (let us = 0; us < 100_000; us += 1) tally.decided(us);
  const { decision_p50_us, decision_p99_us } = tally.take(1) as { decision_p50_us: number; decision_p99_us: number };
  expect(Math.abs(decision_p50_us - 50_000)).toBeLessThan(6_000);
  expect(Math.abs(decision_p99_us - 99_000)).toBeLessThan(1_500);
});
