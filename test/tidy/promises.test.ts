/** No promise is lost and no error swallowed without a word (FAULTS M2), anywhere in the tree; and the check finds what is planted. */
import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { unheldPromises } from './promises.ts';

const root = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '');

test('M2: every promise is awaited, handled or said to be nobody’s; no empty catch of the product is without its reason', () => {
  const found = unheldPromises(root, (file) => /^(contract|rules|signing|manifest-format|runtime|daemon|cloud|testkit|deploy|test|bench)\//.test(file));
  const ours = found.filter(
    ({ file, what }) =>
      what !== 'silent' || (/^(contract|rules|signing|manifest-format|runtime|daemon|cloud|deploy)\//.test(file) && !file.endsWith('.test.ts')),
  );
  expect(ours.map(({ file, line, what, text }) => `${file}:${line}: ${what}: ${text}`)).toEqual([]);
}, 120_000);

const NODE = "import { open, rename } from 'node:fs/promises';\nimport { EventEmitter } from 'node:events';\n";
const PLANTED: readonly (readonly [file: string, statement: string, what: string | null])[] = [
  ['daemon/a.ts', "rename('a', 'b');", 'floating'],
  ['daemon/b.ts', "const file = await open('a'); file.sync(); await file.close();", 'floating'],
  ['daemon/c.ts', 'const calls = { store: async () => 1 }; if (calls.store !== undefined) calls.store();', 'floating'],
  ['cloud/a.ts', 'interface Broker { publish(text: string): Promise<void> } const say = (broker: Broker) => { broker.publish("x"); }; say;', 'floating'],
  ['cloud/b.ts', '(async () => 1)().then(() => 2).finally(() => undefined);', 'floating'],
  ['cloud/c.ts', "new EventEmitter().on('message', async () => { await rename('a', 'b'); });", 'misused'],
  ['cloud/d.ts', '[1].forEach(async () => { await rename("a", "b"); });', 'misused'],
  ['deploy/a.ts', 'Promise.all([rename("a", "b")]);', 'floating'],
  ['deploy/b.ts', 'const busy = Math.random() > 0.5; busy && rename("a", "b");', 'floating'],
  ['deploy/c.ts', 'try { JSON.parse(""); } catch {}', 'silent'],
  ['deploy/d.ts', 'await rename("a", "b").catch(() => undefined);', 'silent'],
  ['deploy/e.ts', "await rename('a', 'b'); void rename('a', 'b'); rename('a', 'b').catch((error: Error) => { throw error; });", null],
  ['deploy/f.ts', 'await rename("a", "b").catch(() => undefined); // it may be gone', null],
];

test('M2: a lost await or a silent catch that is planted in daemon, cloud or deploy is found', () => {
  const folder = realpathSync(mkdtempSync(join(tmpdir(), 'stile-promises-')));
  try {
    symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
    writeFileSync(join(folder, 'package.json'), '{"type":"module"}');
    writeFileSync(
      join(folder, 'tsconfig.json'),
      '{"compilerOptions":{"target":"es2024","lib":["es2024","esnext"],"module":"nodenext","noEmit":true,"strict":true,"types":["node"]},"include":["daemon","cloud","deploy"]}',
    );
    for (const [file, statement] of PLANTED) {
      mkdirSync(dirname(join(folder, file)), { recursive: true });
      writeFileSync(join(folder, file), `${NODE}EventEmitter; open; rename;\n${statement}\nexport {};\n`);
    }
    const found = new Map(unheldPromises(folder, () => true).map(({ file, what }) => [file, what]));
    expect(PLANTED.map(([file, statement]) => [file, statement, found.get(file) ?? null])).toEqual(PLANTED);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}, 120_000);
