/** What a release is sealed with, checked by the tools that a stranger has. */
import { spawnSync } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import { appendFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { debianVersion, makePackage } from './deb.ts';
import { PUBLIC_KEY, SUMS, seal } from './release.ts';
import { releaseOf } from './release-name.ts';
import { packageFolders, readPackage } from './third-party.ts';

const folder = mkdtempSync(join(tmpdir(), 'stile-release-'));
afterAll(() => rmSync(folder, { recursive: true }));
const root = join(import.meta.dirname, '..');
const release = { version: '1.2.0', commit: '0123456789ab', madeAtMs: Date.UTC(2026, 5, 1, 12, 30, 1), floor: '1.1.0' };
const has = (tool: string) => spawnSync(tool, ['--version']).error === undefined;

test.skipIf(!has('openssl'))('S7: openssl and sha256sum take a release as it was sealed, and no other', () => {
  const out = join(folder, 'sealed');
  mkdirSync(out);
  writeFileSync(join(out, 'stile-gate_1.2.0_arm64.tar.gz'), 'archive');
  writeFileSync(join(out, 'stile-cloud_1.2.0_amd64.tar.gz'), 'another');
  seal(out, generateKeyPairSync('ed25519').privateKey);
  const check = () => {
    const signed = spawnSync('openssl', ['pkeyutl', '-verify', '-pubin', '-inkey', PUBLIC_KEY, '-rawin', '-in', SUMS, '-sigfile', `${SUMS}.sig`], { cwd: out });
    return [signed.status, spawnSync('sha256sum', ['-c', SUMS], { cwd: out }).status];
  };
  expect(check()).toEqual([0, 0]);
  appendFileSync(join(out, 'stile-gate_1.2.0_arm64.tar.gz'), '!');
  expect(check()).toEqual([0, 1]);
  appendFileSync(join(out, SUMS), `${'0'.repeat(64)}  more\n`);
  expect(check()[0]).toBe(1);
});

test.skipIf(!has('dpkg-deb'))('a package of the same bundle is the same bytes, whenever it is made', async () => {
  const bundle = join(folder, 'cloud-x64');
  mkdirSync(join(bundle, 'bin'), { recursive: true });
  writeFileSync(join(bundle, 'bin/stile-cloud'), '#!/bin/sh\n', { mode: 0o755 });
  const made = ['first', 'second'].map((name) => {
    const out = join(folder, name);
    mkdirSync(out);
    writeFileSync(join(bundle, 'install'), '#!/bin/sh\n', { mode: 0o775 });
    return makePackage('cloud', 'x64', bundle, out, release);
  });
  expect(made[0]).toMatch(/stile-cloud_1\.2\.0\+20260601123001_amd64\.deb$/);
  expect(readFileSync(made[0] as string).equals(readFileSync(made[1] as string))).toBe(true);
  const said = spawnSync('dpkg-deb', ['--field', made[0] as string, 'Recommends'], { encoding: 'utf8' });
  expect(said.stdout).toContain('postgresql');
  const listed = spawnSync('dpkg-deb', ['--contents', made[0] as string], { encoding: 'utf8' }).stdout;
  expect(listed).toMatch(/-rwxr-xr-x root\/root .*bundle\/install/);
});

test('a later commit is a newer package', () => {
  expect(debianVersion({ ...release, madeAtMs: release.madeAtMs + 1000 }) > debianVersion(release)).toBe(true);
  expect(releaseOf(root, { SOURCE_DATE_EPOCH: '1780000000' })).toMatchObject({
    madeAtMs: 1_780_000_000_000,
    version: expect.any(String),
    floor: expect.any(String),
  });
});

test('packages are found by the files that went in, nested ones and scopes too', () => {
  expect(
    packageFolders(['node_modules/pg/lib/index.js', 'node_modules/@a/b/node_modules/@c/d/x.js', 'cloud/main.ts', 'node_modules/pg/lib/client.js']),
  ).toEqual(['node_modules/@a/b/node_modules/@c/d', 'node_modules/pg']);
});

test('a package with a licence that asks for more than its text is refused', () => {
  const plant = (license: string) => {
    const at = join(folder, 'node_modules/planted');
    mkdirSync(at, { recursive: true });
    writeFileSync(join(at, 'package.json'), JSON.stringify({ name: 'planted', version: '1.0.0', license, author: 'Somebody <a@b>' }));
    return readPackage(folder, 'node_modules/planted');
  };
  for (const license of ['AGPL-3.0', 'SEE LICENSE IN x', 'MIT AND GPL-2.0']) expect(() => plant(license)).toThrow(/licence/);
  expect(plant('(MIT OR GPL-2.0)').text).toContain('Copyright (c) Somebody');
});
