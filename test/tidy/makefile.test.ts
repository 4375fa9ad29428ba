/** The Makefile does what it lists, and what the documents tell people to type: a target without a recipe succeeds and does nothing. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const MAKEFILE = readFileSync(join(root, 'Makefile'), 'utf8');

/** Every target with the number of its recipe's lines; a recipe on the target's own line (after `;`) counts. */
function targetsOf(makefile: string): ReadonlyMap<string, number> {
  const found = new Map<string, number>();
  let names: readonly string[] = [];
  for (const line of makefile.split('\n')) {
    const rule = /^([A-Za-z0-9_./ -]+?)\s*::?(?!=)([^;#]*)(;.*)?/.exec(line);
    if (rule !== null) {
      names = (rule[1] as string).split(/\s+/).filter((name) => !name.startsWith('.'));
      for (const name of names) found.set(name, (found.get(name) ?? 0) + (rule[3] === undefined ? 0 : 1));
    } else if (/^\t\s*\S/.test(line)) for (const name of names) found.set(name, (found.get(name) ?? 0) + 1);
    else if (!/^\s*(#.*)?$/.test(line)) names = [];
  }
  return found;
}

/** Returns the faults of a Makefile, and of documents (by name) that tell people to use it. */
function faultsOf(makefile: string, documents: Readonly<Record<string, string>>): readonly string[] {
  const targets = targetsOf(makefile);
  const phony = [...makefile.matchAll(/^\.PHONY:(.*)$/gm)].flatMap((match) => (match[1] as string).trim().split(/\s+/));
  const faults = phony.filter((name) => !targets.has(name)).map((name) => `${name} is in .PHONY and is no target`);
  for (const [name, lines] of targets) if (lines === 0) faults.push(`${name} has no recipe`);
  for (const name of targets.keys()) if (!phony.includes(name)) faults.push(`${name} is not in .PHONY`);
  // In code: a line of a block, or between backticks. `make` alone, and a word of prose after it, are no targets.
  for (const [file, text] of Object.entries(documents))
    for (const [, words] of text.matchAll(/(?:^|`|[;&|] *|^\$ )(?:[A-Z]+=\S+ )*make((?: [^`#;&|\n]+)?)/gm))
      for (const word of (words ?? '')
        .trim()
        .split(/\s+/)
        .filter((part) => /^[a-z][a-z0-9-]*$/.test(part)))
        if (!targets.has(word)) faults.push(`${file} says make ${word}, and there is no such target`);
  return faults;
}

function documents(): Record<string, string> {
  const markdown = (folder: string) =>
    readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.md'))
      .map((name) => join(folder, name));
  const code = (text: string) => [...text.matchAll(/```[a-z]*\n([\s\S]*?)```|(`[^`\n]+`)/g)].map((match) => match[1] ?? match[2] ?? '').join('\n');
  return Object.fromEntries(
    ['README.md', 'CONTRIBUTING.md', 'SECURITY.md', ...markdown('docs'), ...markdown('bench')].map((file) => [
      file,
      code(readFileSync(join(root, file), 'utf8')),
    ]),
  );
}

test('every target has a recipe, and everything that the documents tell people to make is there', () => {
  const asked = documents();
  expect(Object.keys(asked).length).toBeGreaterThan(5);
  expect(faultsOf(MAKEFILE, asked)).toEqual([]);
});

test.each([
  ['a name in .PHONY alone', MAKEFILE.replace('.PHONY: help', '.PHONY: image help'), {}, ['image is in .PHONY and is no target']],
  [
    'a target without a recipe',
    `${MAKEFILE.replace('.PHONY: help', '.PHONY: image help')}\nimage: bundle ## a card\n# nothing yet\n`,
    {},
    ['image has no recipe'],
  ],
  [
    'a target without a recipe before another',
    MAKEFILE.replace(/^clean:/m, 'image: ## a card\n\nclean:').replace('.PHONY: help', '.PHONY: image help'),
    {},
    ['image has no recipe'],
  ],
  ['a file of that name would stop it', `${MAKEFILE}\nimage:\n\ttrue\n`, {}, ['image is not in .PHONY']],
  ['a document', MAKEFILE, { 'x.md': 'ONCE=1 make demo\nmake image\n`make bundle ARCH=arm64`' }, ['x.md says make image, and there is no such target']],
])('planted: %s', (_what, makefile, docs, faults) => {
  expect(faultsOf(makefile, docs)).toEqual(faults);
});
