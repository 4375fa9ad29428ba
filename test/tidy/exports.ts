/** Finds product files that no program reaches, and exports that nothing but tests imports. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { type Import, isTestFile } from './layers.ts';

const PRODUCT = /^(contract|rules|signing|manifest-format|runtime|daemon|cloud)\//;
/** Where programs begin. `new URL('./worker.ts', import.meta.url)` and the like are found in the texts. */
const ENTRIES = ['daemon/cli/main.ts', 'cloud/cli/main.ts', 'contract/generate.ts'];
/** Exports that stand for readers outside this repository: schemas of the public contract. */
const PUBLIC = /^contract\//;

function texts(root: string): Map<string, string> {
  const listed = spawnSync('git', ['ls-files', '--cached', '--others', '--exclude-standard', '--deduplicate', '*.ts'], { cwd: root, encoding: 'utf8' });
  if (listed.status !== 0) throw new Error(`git ls-files failed: ${listed.stderr}`);
  return new Map(
    listed.stdout
      .trim()
      .split('\n')
      .map((path) => [path, readFileSync(join(root, path), 'utf8')]),
  );
}

/** Returns product files that no program imports, directly or through others. Tests and benches do not keep a file alive; the workshop (deploy) does. */
export function deadFiles(imports: readonly Import[], root: string): string[] {
  const next = new Map<string, Set<string>>();
  for (const { from, to } of imports) next.set(from, (next.get(from) ?? new Set()).add(to));
  for (const [path, text] of texts(root))
    for (const [, url] of text.matchAll(/new URL\('(\.[^']+\.ts)', import\.meta\.url\)/g)) {
      const to = normalize(join(dirname(path), url as string));
      next.set(path, (next.get(path) ?? new Set()).add(to));
    }
  const reached = new Set<string>();
  const visit = (path: string): void => {
    if (reached.has(path)) return;
    reached.add(path);
    for (const to of next.get(path) ?? []) visit(to);
  };
  for (const entry of ENTRIES) visit(entry);
  for (const path of next.keys()) if (path.startsWith('deploy/') && !isTestFile(path)) visit(path);
  return [...next.keys()].filter((path) => PRODUCT.test(path) && !isTestFile(path) && !reached.has(path)).sort();
}

const DECLARED = /^export (?:declare )?(?:abstract )?(?:async )?(?:const|let|function\*?|class|enum) ([A-Za-z_$][\w$]*)/gm;
const LISTED = /^export (?:type )?\{([^}]*)\}(?! from)/gm;

/** Returns exported functions, classes and constants of product code, as `file: name`, that neither another file nor their own uses, tests and benches apart. `extra` adds files by path. */
export function idleExports(root: string, extra: ReadonlyMap<string, string> = new Map()): string[] {
  const all = new Map([...texts(root), ...extra]);
  const users = new Map<string, Set<string>>();
  for (const [path, text] of all) {
    if (isTestFile(path) || /^(test|bench|testkit)\//.test(path)) continue;
    for (const word of new Set(text.match(/[A-Za-z_$][\w$]*/g) ?? [])) users.set(word, (users.get(word) ?? new Set()).add(path));
  }
  const idle: string[] = [];
  for (const [path, text] of all) {
    if (!PRODUCT.test(path) || PUBLIC.test(path) || isTestFile(path)) continue;
    const names = [...text.matchAll(DECLARED)].map(([, name]) => name as string);
    for (const [, list] of text.matchAll(LISTED))
      names.push(
        ...(list as string).split(',').map(
          (part) =>
            part
              .trim()
              .split(/\s+as\s+/)
              .at(-1) as string,
        ),
      );
    for (const name of names) {
      const elsewhere = [...(users.get(name) ?? [])].some((user) => user !== path);
      const here = (text.match(new RegExp(`(?<![\\w$]|(?<!\\.\\.)\\.)${name.replaceAll('$', '\\$')}(?![\\w$])`, 'g')) ?? []).length > 1;
      if (!elsewhere && !here) idle.push(`${path}: ${name}`);
    }
  }
  return idle.sort();
}
