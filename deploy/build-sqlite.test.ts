import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { databasePart, isNewer } from './build-sqlite.ts';
import type { Arch } from './compile.ts';

test('versions of libraries are compared number by number', () => {
  expect(isNewer('2.38', '2.36')).toBe(true);
  expect(isNewer('2.4', '2.36')).toBe(false);
  expect(isNewer('3.4.30', '3.4.30')).toBe(false);
  expect(isNewer('3.4.30.1', '3.4.30')).toBe(true);
  expect(isNewer('1.0', '')).toBe(true);
});

test('the build finds a part without compiling, and a compiled one syncs by fdatasync alone', () => {
  const { file, note } = databasePart(process.arch as Arch, join(import.meta.dirname, '../.tools/node'), false);
  expect({ there: existsSync(file), note }).toEqual({ there: true, note: null });
  const imports = readFileSync(file, 'latin1');
  if (!file.includes('prebuilds')) expect([imports.includes('\0fdatasync\0'), imports.includes('\0fsync\0')]).toEqual([true, false]);
});
