/** Product code uses the glossary's words: the words that they replaced appear in no file name, identifier or log message. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const isTestFile = (path: string): boolean => /\.test\.ts$|\/testing\//.test(path);
const PRODUCT = /^(contract|rules|signing|manifest-format|runtime|daemon|cloud)\/.*\.ts$/;

/** Where an old word is another thing: names on the wire or in a database, and words that other people's programs read. */
const ALLOWED: readonly { readonly word: string; readonly where: RegExp; readonly why: string }[] = [
  { word: 'account', where: /account_locked_until|AccountLock|accountLock|account_lockout/, why: "operators' and users' accounts" },
  { word: 'told', where: /told_epoch|told_seq|\(told\)/, why: 'columns of the table of conflicts' },
];

/** Returns the words of the glossary's third column, each with the word that replaced it. */
function retiredWords(glossary: string): ReadonlyMap<string, string> {
  const words = new Map<string, string>();
  for (const line of glossary.split('\n')) {
    const cells = line.split('|').map((cell) => cell.trim());
    if (cells.length < 5 || cells[1] === 'Word' || /^-+$/.test(cells[1] ?? '')) continue;
    for (const word of (cells[3] ?? '').split(',').map((one) => one.trim())) if (word !== '') words.set(word, cells[1] as string);
  }
  return words;
}

/** Splits an identifier or file name into its lowercase words: `deskWorkerURL` → desk, worker, url. */
const wordsIn = (name: string): string[] =>
  name
    .replace(/([a-z0-9])([A-Z])/g, '$1 $2')
    .replace(/([A-Z]+)([A-Z][a-z])/g, '$1 $2')
    .toLowerCase()
    .split(/[^a-z0-9]+/)
    .filter((word) => word !== '');

/** Returns a text with its comments blanked, line by line. */
const withoutComments = (text: string): string =>
  text
    .replace(/\/\*[\s\S]*?\*\//g, (all) => all.replace(/[^\n]/g, ' '))
    .replace(/(^|[^:'"`\\])\/\/[^\n]*/g, (all, before) => before + ' '.repeat(all.length - before.length));

/** Returns `file:line word (say X)` for each retired word in file names, identifiers and messages of a text. Codes (`STORE_FAILED`) count; comments and other strings do not. */
function findRetired(path: string, text: string, retired: ReadonlyMap<string, string>): string[] {
  const found = wordsIn(basename(path, '.ts')).flatMap((word) => (retired.has(word) ? [`${path}: ${word} (say ${retired.get(word)})`] : []));
  for (const [index, line] of withoutComments(text).split('\n').entries()) {
    const code = line.replace(/(['"])(?![A-Z]+(?:_[A-Z]+)+\1)(?:\\.|(?!\1).)*\1/g, "''");
    for (const name of code.match(/[A-Za-z_$][\w$]*/g) ?? []) {
      const word = wordsIn(name).find((one) => retired.has(one) && !isAllowed(one, line));
      if (word !== undefined) found.push(`${path}:${index + 1} ${name} (say ${retired.get(word)})`);
    }
    for (const [, , message] of line.matchAll(/\blog\.(?:debug|info|warn|error)\((?:\{.*\},\s*)?(['"`])(.*?)\1/g)) {
      const word = [...retired.keys()].find((one) => new RegExp(`\\b${one}\\b`, 'i').test(message as string) && !isAllowed(one, line));
      if (word !== undefined) found.push(`${path}:${index + 1} "${message}" (say ${retired.get(word)})`);
    }
  }
  return [...new Set(found)];
}

const isAllowed = (word: string, line: string): boolean => ALLOWED.some((one) => one.word === word && one.where.test(line));

const retired = retiredWords(readFileSync(join(root, 'docs/GLOSSARY.md'), 'utf8'));

test('the glossary says which words it replaces', () => {
  expect(retired.get('desk')).toBe('decider');
  expect(retired.size).toBeGreaterThan(8);
});

test('product code uses no retired word', () => {
  const listed = spawnSync('git', ['ls-files', '--cached', '--others', '--exclude-standard', '--deduplicate', '*.ts'], { cwd: root, encoding: 'utf8' });
  const files = listed.stdout.split('\n').filter((path) => PRODUCT.test(path) && !isTestFile(path));
  expect(files.length).toBeGreaterThan(200);
  expect(files.flatMap((path) => findRetired(path, readFileSync(join(root, path), 'utf8'), retired))).toEqual([]);
});

test('a planted word is found in a file name, an identifier and a log message, and not in a comment', () => {
  const some = new Map([
    ['desk', 'decider'],
    ['set aside', 'quarantine'],
  ]);
  expect(findRetired('daemon/desk-core.ts', '', some)).toHaveLength(1);
  expect(findRetired('daemon/x.ts', 'const myDeskStore = 1;', some)).toEqual(['daemon/x.ts:1 myDeskStore (say decider)']);
  expect(findRetired('daemon/x.ts', "log.warn('the file was set aside');", some)).toHaveLength(1);
  expect(findRetired('cloud/x.ts', "log.warn({ path, error: error.message }, 'the file was set aside');", some)).toHaveLength(1);
  expect(findRetired('daemon/x.ts', "throw fault('DESK_GONE');", some)).toEqual(['daemon/x.ts:1 DESK_GONE (say decider)']);
  expect(findRetired('daemon/x.ts', '// the desk\nconst a = "desk";', some)).toEqual([]);
});
