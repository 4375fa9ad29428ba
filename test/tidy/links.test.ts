/** Nothing points at nothing: documents named in code, links between documents, commands and make targets that documents print. */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const files = spawnSync('git', ['ls-files', '--cached', '--others', '--exclude-standard', '--deduplicate'], { cwd: root, encoding: 'utf8' }).stdout.trim().split('\n');
const tracked = new Set(files);
const CODE = /\.(ts|sql|c|sh|yaml|yml|conf|service)$|(^|\/)(Makefile|setup|install|deb)$/;

/** Returns the names of documents (`ACCOUNT.md`, `decisions/0156-….md`) that a text names. */
export const documentsNamed = (text: string): string[] => [...text.matchAll(/(?<![\w/.-])((?:[\w.-]+\/)*[A-Z][A-Z-]{2,}\.md|(?:docs\/)?decisions\/[\w-]+\.md)\b/g)].map((match) => match[1] as string);

/** Tells whether a named document exists: by its path from the root, beside the file, in docs/ or docs/spec/. */
const exists = (name: string, from: string): boolean =>
  [name, join(dirname(from), name), join('docs', name), join('docs/spec', name)].some((path) => tracked.has(normalize(path)));

test('every document that code names exists', () => {
  const missing = files
    .filter((path) => CODE.test(path) && existsSync(join(root, path)) && path !== 'test/tidy/links.test.ts')
    .flatMap((path) => documentsNamed(readFileSync(join(root, path), 'utf8')).filter((name) => !exists(name, path)).map((name) => `${path}: ${name}`));
  expect(missing).toEqual([]);
});

test('every link in a document leads to a file', () => {
  const missing = files
    .filter((path) => path.endsWith('.md') && existsSync(join(root, path)))
    .flatMap((path) =>
      [...readFileSync(join(root, path), 'utf8').matchAll(/\]\((?!https?:|#|mailto:)([^)#\s]+)(?:#[^)]*)?\)/g)]
        .map((match) => match[1] as string)
        .filter((link) => !existsSync(join(root, dirname(path), link)))
        .map((link) => `${path}: ${link}`),
    );
  expect(missing).toEqual([]);
});

test('every file that ARCHITECTURE.md, TESTING.md and CONTRIBUTING.md name exists', () => {
  const missing = ['docs/ARCHITECTURE.md', 'docs/TESTING.md', 'CONTRIBUTING.md', 'docs/GLOSSARY.md'].flatMap((path) =>
    [...readFileSync(join(root, path), 'utf8').matchAll(/`((?:contract|rules|signing|manifest-format|runtime|daemon|cloud|testkit|deploy|systemd|test|bench|docs|tools)\/[\w./-]*)`/g)]
      .map((match) => (match[1] as string).replace(/\/$/, ''))
      .filter((name) => !existsSync(join(root, name)))
      .map((name) => `${path}: ${name}`),
  );
  expect(missing).toEqual([]);
});

test('the index of decisions lists every decision', () => {
  const index = readFileSync(join(root, 'docs/decisions/README.md'), 'utf8');
  const missing = files.filter((path) => /^docs\/decisions\/\d{4}-.*\.md$/.test(path)).filter((path) => !index.includes(`](${path.slice('docs/decisions/'.length)})`));
  expect(missing).toEqual([]);
});

test('a planted name of a document that is not there is found', () => {
  expect(documentsNamed('/** As NOWHERE.md says (docs/decisions/9999-nothing.md). */')).toEqual(['NOWHERE.md', 'docs/decisions/9999-nothing.md']);
  expect(exists('NOWHERE.md', 'daemon/main.ts')).toBe(false);
  expect(exists('ACCOUNT.md', 'daemon/main.ts')).toBe(true);
});
