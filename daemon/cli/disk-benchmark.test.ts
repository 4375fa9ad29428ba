import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { isInMemory, upperLayer } from './disk-benchmark.ts';

const TMPFS = 0x01021994;
const OVERLAYFS = 0x794c7630;
const EXT4 = 0xef53;
const ROOT = 'overlay / overlay rw,relatime,lowerdir=/media/root-ro,upperdir=/media/root-rw/overlay,workdir=/media/root-rw/work 0 0\n';

test('L5 the upper layer of an overlay root is found, and not that of another mount', () => {
  expect(upperLayer('/var/lib/stile', `${ROOT}proc /proc proc rw 0 0\n`)).toBe('/media/root-rw/overlay');
  expect(upperLayer('/var/lib/stile', `${ROOT}/dev/sda1 /var/lib/stile ext4 rw 0 0\n`)).toBeNull();
});

test.each([
  ['an overlay on tmpfs', TMPFS, true],
  ['an overlay on a disk', EXT4, false],
])('L5 the store on %s: in memory is %s', (_, upper, inMemory) => {
  const folder = mkdtempSync(join(tmpdir(), 'mounts-'));
  writeFileSync(join(folder, 'mounts'), ROOT);
  expect(isInMemory(folder, join(folder, 'mounts'), (path) => (path.startsWith('/media') ? upper : OVERLAYFS))).toBe(inMemory);
  rmSync(folder, { recursive: true });
});
