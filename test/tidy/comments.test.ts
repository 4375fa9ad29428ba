/** Doc comments begin as docs/STYLE.md asks: those of functions and types with no noun clause, planted ones included. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { commentsOf, nounClauses } from './comments.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));

test('no doc comment of a function or type begins with a noun clause, or asks', () => {
  const listed = spawnSync('git', ['ls-files', '--cached', '--others', '--exclude-standard', '--deduplicate', '*.ts'], { cwd: root, encoding: 'utf8' });
  const comments = listed.stdout
    .trim()
    .split('\n')
    .flatMap((path) => commentsOf(path, readFileSync(join(root, path), 'utf8')));
  expect(comments.length).toBeGreaterThan(3000);
  const found = nounClauses(comments).map(({ path, line, text }) => `${path}:${line} ${text}`);
  expect(found, 'begin with a verb in the present tense ("Returns the …"), and a type with its noun ("The state of …")').toEqual([]);
});

test.each([
  ['a function', '/** What the gate holds. */\nexport async function held(): Promise<Row[]> {\n}'],
  ['an arrow function', '/** How many rows there are. */\nconst count = (rows: readonly Row[]): number => rows.length;'],
  ['a generic arrow function', '/** Which one is first. */\nexport const first = <T>(list: readonly T[]): T => list[0];'],
  ['an interface', '/** Who has the line. */\nexport interface Holder {\n}'],
  ['a type', '/** Of the card. */\ntype Card = string;'],
  ['a method of an interface', 'interface X {\n  /**\n   * So often it was called.\n   */\n  calls(): number;\n}'],
  ['a function that asks', '/** Is the row counted? Then it goes. */\nexport function isCounted(): boolean {\n}'],
  ['a function in a property', 'interface X {\n  /** Where the rows go. */\n  readonly to: (row: Row) => void;\n}'],
])('a planted comment of %s that begins with a noun clause or a question is found', (_what, source) => {
  expect(nounClauses(commentsOf('planted.ts', source))).toHaveLength(1);
});

test('a comment that begins with a verb, and one of a plain property, are not found', () => {
  const source = '/** Returns what the gate holds. */\nfunction held(): Row[] {\n}\ninterface X {\n  /** What was tried. */\n  readonly tried: string;\n}';
  expect(commentsOf('planted.ts', source).map(({ kind, name, line }) => [kind, name, line])).toEqual([
    ['function', 'held', 1],
    ['member', 'tried', 5],
  ]);
  expect(nounClauses(commentsOf('planted.ts', source))).toEqual([]);
});
