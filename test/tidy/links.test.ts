/** Every reference points at something: documents named in code, links between documents, files and functions that documents name, decisions. */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const files = spawnSync('git', ['ls-files', '--cached', '--others', '--exclude-standard', '--deduplicate'], { cwd: root, encoding: 'utf8' })
  .stdout.trim()
  .split('\n');
const tracked = new Set(files);
const CODE = /\.(ts|sql|c|sh|yaml|yml|conf|service)$|(^|\/)(Makefile|setup|install|deb)$/;

/** Returns the names of documents (`ACCOUNT.md`, `decisions/0156-….md`) that a text names. */
const documentsNamed = (text: string): string[] =>
  [...text.matchAll(/(?<![\w/.-])((?:[\w.-]+\/)*[A-Z][A-Z-]{2,}\.md|(?:docs\/)?decisions\/[\w-]+\.md)\b/g)].map((match) => match[1] as string);

/** Tells whether a named document exists: by its path from the root, beside the file, in docs/ or docs/spec/, or where a bundle holds docs/. */
const exists = (name: string, from: string): boolean =>
  [name, join(dirname(from), name), join('docs', name), join('docs/spec', name), name.replace(/^share\/doc\//, 'docs/')].some((path) =>
    tracked.has(normalize(path)),
  );

test('every document that code names exists', () => {
  const missing = files
    .filter((path) => CODE.test(path) && existsSync(join(root, path)) && path !== 'test/tidy/links.test.ts')
    .flatMap((path) =>
      documentsNamed(readFileSync(join(root, path), 'utf8'))
        .filter((name) => !exists(name, path))
        .map((name) => `${path}: ${name}`),
    );
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
    [
      ...readFileSync(join(root, path), 'utf8').matchAll(
        /`((?:contract|rules|signing|manifest-format|runtime|daemon|cloud|testkit|deploy|systemd|test|bench|docs|tools)\/[\w./-]*)`/g,
      ),
    ]
      .map((match) => (match[1] as string).replace(/\/$/, ''))
      .filter((name) => !existsSync(join(root, name)))
      .map((name) => `${path}: ${name}`),
  );
  expect(missing).toEqual([]);
});

/** Returns the numbers of migrations that a text names. */
const migrationsNamed = (text: string): string[] =>
  [...text.matchAll(/[Mm]igrations? (\d{4})(?: (?:and|to) (\d{4}))?/g)].flatMap((match) => [match[1] as string, ...(match[2] === undefined ? [] : [match[2]])]);

test('every migration that a text names exists', () => {
  const numbers = new Set(files.flatMap((path) => /^cloud\/db\/migrations\/(\d{4})_/.exec(path)?.[1] ?? []));
  const missing = files
    .filter((path) => (CODE.test(path) || path.endsWith('.md')) && existsSync(join(root, path)) && path !== 'test/tidy/links.test.ts')
    .flatMap((path) =>
      migrationsNamed(readFileSync(join(root, path), 'utf8'))
        .filter((number) => !numbers.has(number))
        .map((number) => `${path}: migration ${number}`),
    );
  expect(missing).toEqual([]);
  expect(migrationsNamed('as it is since migration 0540; migrations 0201 and 0202')).toEqual(['0540', '0201', '0202']);
});

test('the index of decisions lists every decision', () => {
  const index = readFileSync(join(root, 'docs/decisions/README.md'), 'utf8');
  const missing = files
    .filter((path) => /^docs\/decisions\/\d{4}-.*\.md$/.test(path))
    .filter((path) => !index.includes(`](${path.slice('docs/decisions/'.length)})`));
  expect(missing).toEqual([]);
});

/** Returns the rows of the walks in a text: a file, and a function that is said to stand in it. */
const stepsOfWalks = (text: string): readonly { readonly file: string; readonly name: string }[] =>
  [...text.matchAll(/^\| \d+ \| `([\w./-]+)` \| `(\w+)` \|/gm)].map(([, file, name]) => ({ file: file as string, name: name as string }));

/** Tells whether a source defines a function or a method of this name. */
const defines = (source: string, name: string): boolean =>
  new RegExp(`(?:function|const) ${name}\\b|^ +(?:async )?${name}\\(.*\\{$|^ +${name}: `, 'm').test(source);

test('every function that a walk in ARCHITECTURE.md names is defined in its file', () => {
  const steps = stepsOfWalks(readFileSync(join(root, 'docs/ARCHITECTURE.md'), 'utf8'));
  expect(steps.length).toBeGreaterThan(30);
  expect(steps.filter(({ file, name }) => !existsSync(join(root, file)) || !defines(readFileSync(join(root, file), 'utf8'), name))).toEqual([]);
});

test('a planted step of a walk is found when its function is only called, or gone', () => {
  expect(stepsOfWalks('| 3 | `rules/admission.ts` | `admit` | grants |')).toEqual([{ file: 'rules/admission.ts', name: 'admit' }]);
  expect(defines('export function admit(facts: Facts): Verdict {', 'admit')).toBe(true);
  expect(defines('    present(frame) {', 'present')).toBe(true);
  expect(defines('const verdict = admit(facts);\nimport { admit } from "./a.ts";', 'admit')).toBe(false);
});

test('a planted name of a document that is not there is found', () => {
  expect(documentsNamed('/** As NOWHERE.md says (docs/decisions/9999-nothing.md). */')).toEqual(['NOWHERE.md', 'docs/decisions/9999-nothing.md']);
  expect(exists('NOWHERE.md', 'daemon/main.ts')).toBe(false);
  expect(exists('ACCOUNT.md', 'daemon/main.ts')).toBe(true);
});
