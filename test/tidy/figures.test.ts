/** The figures that the tree is measured by: what must be none is none, and a planted fault raises each. */
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { type DocComment, drawComments } from './comments.ts';
import { format, functionsMade, measure } from './figures.ts';

const figures = measure(fileURLToPath(new URL('../..', import.meta.url)));

test('the tree has no circle, no violation and no SQL function that is defined twice', () => {
  expect(figures).toMatchObject({ circles: 0, violations: 0, sql: { definedTwice: [] } });
});

test('the checker of layers finds every violation that is planted in every room', () => {
  expect(figures.planted.length).toBeGreaterThan(40);
  expect(figures.planted.filter(({ planted, found }) => planted < 6 || found !== planted)).toEqual([]);
});

test('the roots of daemon and cloud hold their composition alone', () => {
  expect(figures.rootFiles.get('daemon')).toBeLessThanOrEqual(4);
  expect(figures.rootFiles.get('cloud')).toBeLessThanOrEqual(5);
});

test('functionsMade names a planted second definition twice, and none of a comment', () => {
  expect(functionsMade(['CREATE FUNCTION a() …', '-- CREATE FUNCTION b()\nCREATE OR REPLACE FUNCTION a() …'])).toEqual(['a', 'a']);
});

test('drawComments draws the same comments by the same seed, each once', () => {
  const places = (seed: number) => drawComments(figures.comments, seed, 20).map(({ path, line }: DocComment) => `${path}:${line}`);
  expect(places(1)).toEqual(places(1));
  expect(places(1)).not.toEqual(places(2));
  expect(new Set(places(1)).size).toBe(20);
});

test('format prints the counts and as many comments as asked for', () => {
  const text = format(figures, 3, 5);
  expect(text).toMatch(/^circles of imports +0$/m);
  expect(text).toMatch(/^of these found +\d+, in every one$/m);
  expect(text).toMatch(/^5 comments, seed 3:$/m);
});
