import { expect, test } from 'vitest';
import { promises, RELEASE_ROW_BOUND_S, ROW_BOUND_S } from './promises.ts';
import { asTable, merged, readFigures } from './prove.ts';

test('reads figures wherever they stand in a runner’s output', () => {
  const output = 'stdout | test/x.test.ts > y\n\u001b[32m  figure: 100 cuts, 0 lost\u001b[39m\nfigures of speech\nnot shown: no loop device here\n';
  expect(readFigures(output)).toEqual({ figures: ['100 cuts, 0 lost'], notShown: ['no loop device here'] });
});

test('a row that was run replaces its line in the table and leaves the others', () => {
  const rows = [
    { row: 1, promise: 'one', short: '', proofs: [] },
    { row: 2, promise: 'two', short: '', proofs: [{ command: ['node', 'x.ts'], boundS: 1 }] },
  ];
  const outcome = (row: number, figure: string, held = true) => ({ row, held, figures: [figure], notShown: [], seconds: 1 });
  const standing = asTable(rows, [outcome(1, 'first'), outcome(2, 'old')]);
  const after = merged(standing, asTable(rows, [outcome(2, 'a|b', false)]));
  expect(after).toContain('| 1 | one | first |');
  expect(after).toContain('| 2 | two | **BROKEN** a\\|b | `node x.ts` | 1 |');
  expect(after).not.toContain('old');
});

test('every row stays within its bound', () => {
  expect(promises.map(({ row }) => row)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
  for (const { row, proofs } of promises) {
    const together = proofs.reduce((sum, { boundS }) => sum + boundS, 0);
    expect(together, `row ${row}`).toBeLessThanOrEqual(row === 5 ? RELEASE_ROW_BOUND_S : ROW_BOUND_S);
  }
});
