import { rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { storeFolder } from '../decider/testing/store.ts';
import { openPageChecksums } from './page-checksums.ts';

test('zeros where a power cut left a log’s header and frames name no page', () => {
  const folder = storeFolder();
  const path = join(folder.path, 'usage.sqlite');
  writeFileSync(path, Buffer.alloc(2 * 4_096, 1));
  writeFileSync(`${path}-wal`, Buffer.alloc(32 + 3 * 4_120));
  const options = { path, markOf: () => 1, onDamage: (page: number) => new Error(`page ${page}`) };
  const first = openPageChecksums(options);
  first.before();
  first.after(1);
  // With sums there, the log says which pages change.
  const again = openPageChecksums(options);
  expect(() => {
    again.before();
    again.after(2);
  }).not.toThrow();
  writeFileSync(path, Buffer.concat([Buffer.alloc(4_096, 1), Buffer.alloc(4_096, 3)]));
  expect(() => openPageChecksums(options)).toThrow('page 2');
  folder.remove();
});

test.each([
  ['cannot be synced', '/dev/null', 'EINVAL'],
  ['cannot be written', '/dev/full', 'ENOSPC'],
])('checksums that %s are an error, before the log is folded and after', (_name, device, code) => {
  const folder = storeFolder();
  const path = join(folder.path, 'usage.sqlite');
  writeFileSync(path, Buffer.alloc(2 * 4_096, 1));
  const checksums = openPageChecksums({ path, markOf: () => 1, onDamage: (page: number) => new Error(`page ${page}`) });
  checksums.before();
  checksums.after(1);
  rmSync(`${path}.pages`);
  symlinkSync(device, `${path}.pages`);
  expect(() => checksums.before()).toThrow(code);
  expect(() => checksums.after(2)).toThrow(code);
  folder.remove();
});
