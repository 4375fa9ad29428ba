/** Planted links and folders, as root and as anybody: what commands write goes where it was said, or nowhere. */
import {
  chmodSync,
  chownSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { openSafeFile, UnsafePlaceError, writeSafeFile } from './safe-file.ts';

const root = process.geteuid?.() === 0;
/** Somebody who is not root; no such account is needed. */
const OTHER = 64_321;
let folder: string;
let victim: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'stile-safe-'));
  chmodSync(folder, 0o755);
  victim = join(folder, 'victim');
  writeFileSync(victim, 'untouched', { mode: 0o600 });
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));
const untouched = () => {
  const { mode, uid } = statSync(victim);
  expect([readFileSync(victim, 'utf8'), mode & 0o777, uid]).toEqual(['untouched', 0o600, process.geteuid?.() ?? 0]);
};
const at = (...parts: string[]) => join(folder, ...parts);

test('S6: a secret that replaces a file of mode 644 has mode 600, and no link of the old file sees it', () => {
  writeFileSync(at('token'), 'old', { mode: 0o644 });
  linkSync(at('token'), at('copy'));
  writeSafeFile(at('token'), 'new', { mode: 0o600 });
  expect([readFileSync(at('token'), 'utf8'), statSync(at('token')).mode & 0o777, readFileSync(at('copy'), 'utf8')]).toEqual(['new', 0o600, 'old']);
});

test('S3: a link in the place of the file is refused, whatever it leads to, and what it leads to stays as it is', () => {
  mkdirSync(at('folder'));
  for (const [name, leads] of [
    ['to-file', victim],
    ['to-folder', at('folder')],
    ['to-nothing', at('nothing')],
  ] as const) {
    symlinkSync(leads, at(name));
    for (const options of [{ mode: 0o600 }, { mode: 0o644, keep: true }]) expect(() => writeSafeFile(at(name), 'x', options)).toThrow(UnsafePlaceError);
    expect(() => writeSafeFile(at(name), 'x', { mode: 0o600, fresh: true })).toThrow(/is there already/);
  }
  untouched();
  expect(readdirSync(at('folder'))).toEqual([]);
  expect(readdirSync(folder).sort()).toEqual(['folder', 'to-file', 'to-folder', 'to-nothing', 'victim']);
});

test('a file appears whole or not at all, and what was begun leaves nothing', () => {
  const begun = openSafeFile(at('one'), { mode: 0o600 });
  writeFileSync(begun.fd, 'half');
  expect(lstatSync(at('one'), { throwIfNoEntry: false })).toBeUndefined();
  begun.abandon();
  begun.abandon();
  expect(readdirSync(folder)).toEqual(['victim']);
  const again = openSafeFile(at('one'), { mode: 0o640 });
  writeFileSync(again.fd, 'whole');
  again.commit();
  again.abandon();
  expect([readFileSync(at('one'), 'utf8'), statSync(at('one')).mode & 0o777]).toEqual(['whole', 0o640]);
  expect(() => writeSafeFile(at('no', 'such', 'folder'), 'x', { mode: 0o600 })).toThrow(/ENOENT/);
  expect(() => writeSafeFile(folder, 'x', { mode: 0o600 })).toThrow(/is no file/);
});

test.skipIf(!root)('S3: as root into a folder of a service: nothing is followed, and the file that is replaced passes on its owner and mode', () => {
  mkdirSync(at('service'));
  chownSync(at('service'), OTHER, OTHER);
  writeFileSync(at('service', 'acl'), 'old', { mode: 0o666 });
  chmodSync(at('service', 'acl'), 0o666);
  chownSync(at('service', 'acl'), OTHER, OTHER);
  writeSafeFile(at('service', 'acl'), 'new', { mode: 0o644, keep: true });
  const { uid, mode } = statSync(at('service', 'acl'));
  expect([readFileSync(at('service', 'acl'), 'utf8'), uid, mode & 0o777]).toEqual(['new', OTHER, 0o644]);
  rmSync(at('service', 'acl'));
  symlinkSync(victim, at('service', 'acl'));
  expect(() => writeSafeFile(at('service', 'acl'), 'new', { mode: 0o644, keep: true })).toThrow(/is a link/);
  untouched();
});

test.skipIf(!root)('S3: as root below a folder that somebody else may rename in, or through his link: refused with the reason', () => {
  mkdirSync(at('service', 'sub'), { recursive: true });
  chownSync(at('service'), OTHER, OTHER);
  mkdirSync(at('roots'));
  // His folder above: he can put a link in the place of `sub` at any moment.
  expect(() => writeSafeFile(at('service', 'sub', 'rows'), 'x', { mode: 0o600 })).toThrow(/is open to other users/);
  symlinkSync(at('roots'), at('service', 'linked'));
  expect(() => writeSafeFile(at('service', 'linked', 'rows'), 'x', { mode: 0o600 })).toThrow(UnsafePlaceError);
  mkdirSync(at('open'));
  chmodSync(at('open'), 0o777);
  mkdirSync(at('open', 'sub'));
  expect(() => writeSafeFile(at('open', 'sub', 'rows'), 'x', { mode: 0o600 })).toThrow(/is open to other users/);
  expect(readdirSync(at('roots'))).toEqual([]);
  // A link that root made, and a folder that everybody may use, as /tmp is.
  symlinkSync(at('roots'), at('by-root'));
  writeSafeFile(at('by-root', 'rows'), 'x', { mode: 0o600 });
  chmodSync(at('open'), 0o1777);
  writeSafeFile(at('open', 'sub', 'rows'), 'x', { mode: 0o600 });
  expect([readdirSync(at('roots')), readdirSync(at('open', 'sub'))]).toEqual([['rows'], ['rows']]);
});

test.skipIf(!root)('S3: the way to the folder is led elsewhere after it was opened: the file still goes into that folder', () => {
  mkdirSync(at('service'));
  mkdirSync(at('roots'));
  const begun = openSafeFile(at('service', 'rows'), { mode: 0o600 });
  writeFileSync(begun.fd, 'x');
  // As the owner of the folder above could.
  const moved = at('moved');
  renameSync(at('service'), moved);
  symlinkSync(at('roots'), at('service'));
  begun.commit();
  expect([readdirSync(moved), readdirSync(at('roots'))]).toEqual([['rows'], []]);
});
