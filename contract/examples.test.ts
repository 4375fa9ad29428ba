/** The golden examples: every schema has good ones, which stay good, and bad ones, which are refused for what their name says. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { parsePayload } from './parse.ts';
import { SCHEMAS } from './schemas.ts';

const root = fileURLToPath(new URL('examples/', import.meta.url));
const files = (folder: string): string[] => (existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith('.json')) : []);
/** Folders that hold vectors of their own: chain.test.ts, rules/decisions.test.ts. */
const OTHERS = ['chain', 'decisions'];

test('every folder of examples belongs to a schema', () => {
  expect(readdirSync(root).filter((name) => !name.endsWith('.md') && !OTHERS.includes(name) && !(name in SCHEMAS))).toEqual([]);
});

for (const [name, schema] of Object.entries(SCHEMAS)) {
  const good = files(`${root}${name}`);
  const bad = files(`${root}${name}/invalid`);
  test(`${name}: has examples, good and bad`, () => {
    expect(good.length).toBeGreaterThan(0);
    expect(bad.length).toBeGreaterThan(0);
  });
  for (const file of good) {
    test(`${name}: ${file} is read, and nothing of it is lost`, () => {
      const bytes = readFileSync(`${root}${name}/${file}`);
      const parsed = parsePayload(schema, bytes);
      expect(parsed).toMatchObject({ ok: true });
      if (parsed.ok) expect(parsed.value).toMatchObject(JSON.parse(bytes.toString('utf8')));
    });
  }
  for (const file of bad) {
    // <where>--<why>.json, <where> a path with dots, `whole` for the message itself; or wrong-version.json.
    test(`${name}: ${file} is refused there`, () => {
      const parsed = parsePayload(schema, readFileSync(`${root}${name}/invalid/${file}`));
      const where = file.slice(0, file.indexOf('--'));
      if (file === 'wrong-version.json') expect(parsed).toMatchObject({ ok: false, error: 'wrong_version' });
      else
        expect(parsed).toMatchObject({
          ok: false,
          error: 'malformed',
          message: expect.stringMatching(where === 'whole' ? /^\(whole\): / : new RegExp(`^${where.replaceAll('.', '\\.')}[.:]`)),
        });
    });
  }
}
