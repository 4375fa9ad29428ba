/** What root itself runs around the services: never into a folder where a service may have planted a link. */
import { spawnSync } from 'node:child_process';
import { chownSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, test } from 'vitest';

const systemd = fileURLToPath(new URL('../../systemd', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'stile-root-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const unit = (name: string) => readFileSync(join(systemd, name), 'utf8');
/** Commands of a unit that run with all rights, whatever its User= says. */
const rootSteps = (name: string) => [...unit(name).matchAll(/^Exec\w+=[@:-]*[+!]+[@:-]*(.+)$/gm)].map(([, command]) => (command as string).split(' '));
/** Folders that tmpfiles.d makes, with their owner. */
const owners = new Map([...unit('tmpfiles.d/stile.conf').matchAll(/^d (\S+) \d+ (\S+)/gm)].map(([, path, owner]) => [path as string, owner as string]));

test("S3: root's steps of the units write into root's folders alone", () => {
  const steps = [...rootSteps('stile-gate.service'), ...rootSteps('stile-cloud.service')];
  expect(steps.map(([program]) => program)).toEqual(['/usr/bin/install']);
  for (const step of steps) expect(owners.get(dirname(step.at(-1) as string)), step.join(' ')).toBe('root');
  expect(owners.get('/run/stile')).toBe('stile-gate');
});

test.skipIf(process.geteuid?.() !== 0)(
  'S3: even where a service had planted a link to a folder or to a file, the step replaces the link and follows it nowhere',
  () => {
    const [program, ...args] = rootSteps('stile-gate.service')[0] as [string, ...string[]];
    const source = join(folder, 'source');
    writeFileSync(source, 'the step');
    for (const leads of ['folder', 'file']) {
      const [theirs, roots] = [join(folder, `theirs-${leads}`), join(folder, `roots-${leads}`)];
      mkdirSync(theirs);
      mkdirSync(roots);
      writeFileSync(join(roots, 'file'), 'untouched');
      chownSync(theirs, 64_323, 64_323);
      const target = join(theirs, 'stile-release');
      symlinkSync(leads === 'folder' ? roots : join(roots, 'file'), target);
      const { status, stderr } = spawnSync(program, [...args.slice(0, -2), source, target], { encoding: 'utf8' });
      expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
      expect([readdirSync(roots), readFileSync(join(roots, 'file'), 'utf8'), readFileSync(target, 'utf8')]).toEqual([['file'], 'untouched', 'the step']);
    }
  },
);
