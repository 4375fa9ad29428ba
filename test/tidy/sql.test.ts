/** The rules of cloud/db/README.md hold for every SQL file, and a planted breach of each is found. */
import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const db = fileURLToPath(new URL('../../cloud/db', import.meta.url));
const below = (folder: string): [string, string][] =>
  readdirSync(join(db, folder), { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.sql'))
    .map((entry) => join(entry.parentPath, entry.name))
    .sort()
    .map((path) => [path.slice(db.length + 1), readFileSync(path, 'utf8')]);
/** Comments and string bodies taken out: what is left is what PostgreSQL parses at once. */
const bare = (text: string): string => text.replace(/--[^\n]*/g, '').replace(/\$([A-Za-z_]*)\$[\s\S]*?\$\1\$/g, "''");

/** Returns what is wrong with a function's file. */
function faultsOf(path: string, text: string): string[] {
  const faults: string[] = [];
  const made = [...bare(text).matchAll(/\bCREATE (OR REPLACE )?FUNCTION ([a-z0-9_]+)/g)];
  if (made.length !== 1 || made[0]?.[1] === undefined) faults.push('holds not exactly one CREATE OR REPLACE FUNCTION');
  if (made[0]?.[2] !== basename(path, '.sql')) faults.push(`is not named like its function ${made[0]?.[2]}`);
  if (/\bBEGIN ATOMIC\b|\n\s*RETURN /.test(bare(text))) faults.push('has a body that is no string');
  for (const [, change] of bare(text).matchAll(/\bALTER FUNCTION [^;]*? (OWNER|SET|RESET|STABLE|IMMUTABLE|VOLATILE|RENAME)\b/g))
    if (change !== 'OWNER') faults.push(`changes the function after it was made (${change})`);
  if (/\b(CREATE|ALTER|DROP) (TABLE|INDEX|TYPE|ROLE|POLICY|TRIGGER|VIEW)\b/.test(bare(text))) faults.push('makes something else than a function');
  return faults.map((fault) => `${path} ${fault}`);
}

const functions = below('functions');
const migrations = below('migrations');

test('a file in functions/ holds one function, whole', () => {
  expect(functions.length).toBeGreaterThan(150);
  expect(functions.flatMap(([path, text]) => faultsOf(path, text))).toEqual([]);
});

test('no function is defined twice', () => {
  const names = [
    ...functions.map(([path]) => basename(path, '.sql')),
    ...migrations.flatMap(([, text]) => [...text.matchAll(/^CREATE (?:OR REPLACE )?FUNCTION ([a-z0-9_]+)/gm)].map((match) => match[1] as string)),
  ];
  expect(names.filter((name, index) => names.indexOf(name) !== index)).toEqual([]);
});

test('views and triggers are replaced, never made a second time', () => {
  for (const [path, text] of below('views')) expect([path, /^CREATE OR REPLACE VIEW ([a-z_]+)/m.exec(text)?.[1]]).toEqual([path, basename(path, '.sql')]);
  for (const [path, text] of below('triggers')) {
    expect([path, /\bCREATE TRIGGER\b/.test(bare(text))]).toEqual([path, false]);
    for (const [, table] of bare(text).matchAll(/\bCREATE OR REPLACE TRIGGER [\s\S]*? ON ([a-z_]+)/g))
      expect([path, table]).toEqual([path, basename(path, '.sql')]);
  }
});

test('no migration names what functions/ makes', () => {
  const names = new Set(functions.map(([path]) => basename(path, '.sql')));
  const found = migrations.flatMap(([path, text]) =>
    (bare(text).match(/[a-z_0-9]+(?=\s*\()/g) ?? []).filter((name) => names.has(name)).map((name) => `${path}: ${name}`),
  );
  expect(found).toEqual([]);
});

test('a planted breach of each rule is found', () => {
  const good = 'CREATE OR REPLACE FUNCTION planted() RETURNS text LANGUAGE sql AS $$ SELECT 1 $$;\n';
  expect(faultsOf('functions/x/planted.sql', good)).toEqual([]);
  expect(faultsOf('functions/x/other.sql', good)).toHaveLength(1);
  expect(faultsOf('functions/x/planted.sql', good + good)).toHaveLength(1);
  expect(faultsOf('functions/x/planted.sql', good.replace('OR REPLACE ', ''))).toHaveLength(1);
  expect(faultsOf('functions/x/planted.sql', 'CREATE OR REPLACE FUNCTION planted() RETURNS text LANGUAGE sql\n  RETURN 1;')).toHaveLength(1);
  expect(faultsOf('functions/x/planted.sql', `${good}ALTER FUNCTION planted() SET work_mem = 1;`)).toHaveLength(1);
  expect(faultsOf('functions/x/planted.sql', `${good}ALTER FUNCTION planted() OWNER TO x;`)).toEqual([]);
  expect(faultsOf('functions/x/planted.sql', `${good}CREATE INDEX x ON y (z);`)).toHaveLength(1);
});
