import { expect, test } from 'vitest';
import type { GateStatus, RecentLine } from '../control/protocol.ts';
import { createLastLines, KEPT_LINES } from './recent-lines.ts';

const line = (words: string): RecentLine => ({ at: '2026-05-01T18:00:00.000Z', direction: 'in', kind: 'passage', words });
const status = (gate: string, recent: readonly RecentLine[]) => ({ gate, recent }) as GateStatus;
const words = (lines: readonly string[]) => lines.map((one) => one.split(' ').at(-1));

test('the first status brings the lines of before, later ones do not', () => {
  const last = createLastLines();
  expect([last.status(), last.below([], 24)]).toEqual([null, []]);
  last.take({ status: status('a', [line('one'), line('two')]) });
  last.take({ line: line('three') });
  last.take({ status: status('b', [line('two'), line('three')]) });
  expect([last.status()?.gate, words(last.below([], 24))]).toEqual(['b', ['one', 'two', 'three']]);
});

test('as many lines as fit below the head, one at least; the oldest go', () => {
  const last = createLastLines();
  for (let n = 0; n < KEPT_LINES + 50; n++) last.take({ line: line(`n${n}`) });
  expect(words(last.below(['head', ''], 5))).toEqual(['n248', 'n249']);
  expect(words(last.below(['head', '', '', ''], 2))).toEqual(['n249']);
  expect(words(last.below([], 1_000))).toHaveLength(KEPT_LINES);
  expect(words(last.below([], 1_000))[0]).toBe('n50');
});
