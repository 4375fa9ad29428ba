/** The installer against folders that stand for a card: what it refuses, what it puts where, and what it leaves. */
import { spawnSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';

const root = fileURLToPath(new URL('..', import.meta.url));
/** Owners are set and system users made: by root alone. */
const able = process.getuid?.() === 0 && spawnSync('systemd-sysusers', ['--version']).status === 0;
const CONFIG = `gate: arena/north-03
readers: [{ name: in, path: /dev/stile-reader-in, baud: 115200, frame: crlf, direction: in }]
board:
  driver: gpio
  outputs: { release_in: { line: 17, safe: low }, green_in: 22, red_in: 23 }
  inputs: { passage_in: { line: 20, bias: pull-up, active: low } }
mqtt: { url: mqtts://broker.lan:8883, ca: /etc/stile/ca.pem, cert: /etc/stile/gate.pem, key: /etc/stile/gate.key }
store: { path: /var/lib/stile }
`;
const FIRMWARE = 'dtparam=audio=on\n[pi4]\narm_boost=1\n';

let folder: string;
let bundle: string;
let offlineLedger: string;

const install = (...args: string[]) => spawnSync(join(bundle, 'install'), args, { encoding: 'utf8' });
const on = (path: string) => join(offlineLedger, path);

if (!able) test.skip('deploy/install');
else
  describe('deploy/install', () => {
    beforeAll(() => {
      folder = mkdtempSync(join(tmpdir(), 'stile-install-'));
      const made = spawnSync(process.execPath, ['deploy/bundle.ts', 'gate', process.arch, folder, '--no-database'], { cwd: root, encoding: 'utf8' });
      if (made.status !== 0) throw new Error(`no bundle: ${made.stderr}`);
      bundle = join(folder, `gate-${process.arch}`);
    });
    afterAll(() => rmSync(folder, { recursive: true, force: true }));
    beforeEach(() => {
      offlineLedger = join(folder, 'card');
      rmSync(offlineLedger, { recursive: true, force: true });
      for (const path of ['etc/systemd', 'usr/bin', 'boot/firmware']) mkdirSync(on(path), { recursive: true });
      // As on a Debian of today: /bin is a link, and sh is one.
      symlinkSync('usr/bin', on('bin'));
      copyFileSync('/bin/sh', on('usr/bin/dash'));
      symlinkSync('dash', on('usr/bin/sh'));
      writeFileSync(on('boot/firmware/config.txt'), FIRMWARE);
      writeFileSync(join(folder, 'gate.yaml'), CONFIG);
    });

    const untouched = () => {
      for (const path of ['opt', 'etc/stile', 'etc/sysusers.d', 'etc/systemd/system', 'usr/local']) expect(existsSync(on(path)), path).toBe(false);
      expect(readFileSync(on('boot/firmware/config.txt'), 'utf8')).toBe(FIRMWARE);
    };

    test('refuses a 32-bit system with one sentence, before anything is touched', () => {
      const header = Buffer.alloc(64);
      header.set([0x7f, 0x45, 0x4c, 0x46, 1, 1, 1]);
      writeFileSync(on('usr/bin/dash'), header);
      const { status, stderr } = install('--root', offlineLedger);
      expect(status).toBe(1);
      expect(stderr).toBe('install: this is a 32-bit system, and Stile needs a 64-bit one: flash the 64-bit image of the same system\n');
      untouched();
    });

    test('refuses a machine of another architecture, also where links lead out of the card', () => {
      const program = Buffer.from(readFileSync('/bin/sh'));
      program[18] = process.arch === 'x64' ? 0xb7 : 0x3e;
      writeFileSync(on('usr/bin/other'), program);
      rmSync(on('usr/bin/sh'));
      symlinkSync('/usr/bin/other', on('usr/bin/sh'));
      const { status, stderr } = install('--root', offlineLedger);
      expect({ status, stderr }).toMatchObject({ status: 1, stderr: expect.stringMatching(/^install: this bundle is for \w+, and this machine is not/) });
      untouched();
    });

    test('refuses a bad configuration with 78 and every error, before anything is touched', () => {
      writeFileSync(join(folder, 'gate.yaml'), `${CONFIG.replace('frame: crlf', 'frame: crfl')}turnstile: { puls_ms: 200 }\n`);
      const { status, stderr } = install('--root', offlineLedger, '--config', join(folder, 'gate.yaml'));
      expect(status).toBe(78);
      expect(stderr).toContain('did you mean pulse_ms?');
      expect(stderr).toContain('readers[0].frame');
      untouched();
      expect(install('--root', offlineLedger, '--config', '/nonexistent').status).toBe(78);
      untouched();
    });

    test('says how it is used, and refuses what it does not know with 2', () => {
      expect(install('--help').stdout).toContain('./install --remove');
      expect(install('--frobnicate').status).toBe(2);
      expect(install('--config').status).toBe(2);
      expect(install('--root', join(folder, 'missing')).status).toBe(2);
    });

    test('is no bundle: says so', () => {
      mkdirSync(join(folder, 'alone'), { recursive: true });
      copyFileSync(join(bundle, 'install'), join(folder, 'alone/install'));
      expect(spawnSync('sh', [join(folder, 'alone/install'), '--root', offlineLedger], { encoding: 'utf8' })).toMatchObject({
        status: 1,
        stderr: expect.stringContaining('make bundle'),
      });
      untouched();
    });

    test('puts program, units, configuration and power-on levels onto a card; again, it keeps the version before; removed, configuration stays', () => {
      const files = join(folder, 'files');
      mkdirSync(files, { recursive: true });
      writeFileSync(join(files, 'gate.key'), 'secret', { mode: 0o644 });
      const first = install('--root', offlineLedger, '--config', join(folder, 'gate.yaml'), '--files', files);
      expect(first, first.stderr).toMatchObject({ status: 0 });

      expect(lstatSync(on('opt/stile')).isSymbolicLink()).toBe(true);
      for (const path of ['opt/stile/bin/node', 'opt/stile/lib/stile-gate.mjs', 'opt/stile/libexec/stile-release', 'opt/stile/version.json'])
        expect(existsSync(on(path)), path).toBe(true);
      expect(readFileSync(on('etc/systemd/system/stile-gate.service'), 'utf8')).toContain('WatchdogSec=3');
      expect(readlinkSync(on('etc/systemd/system/multi-user.target.wants/stile-gate.service'))).toBe('/etc/systemd/system/stile-gate.service');
      expect(readlinkSync(on('usr/local/bin/stile-gate'))).toBe('/opt/stile/bin/stile-gate');
      const group = Number(/^stile-gate:[^:]*:(\d+):/m.exec(readFileSync(on('etc/group'), 'utf8'))?.[1]);
      expect(group).toBeGreaterThan(0);
      for (const file of ['gate.key', 'gate.yaml']) {
        const { uid, gid, mode } = statSync(on(`etc/stile/${file}`));
        expect([file, uid, gid, mode & 0o777]).toEqual([file, 0, group, 0o640]);
      }
      const firmware = readFileSync(on('boot/firmware/config.txt'), 'utf8');
      // Below [all]: the section before is for one model only.
      expect(firmware).toMatch(/\[pi4\]\narm_boost=1\n# begin stile\n\[all\]\n#.*\ngpio=17=op,dl\n/);
      expect(firmware).toMatch(/gpio=20=ip,pu\n/);

      const before = readlinkSync(on('opt/stile'));
      mkdirSync(on('opt/stile.d/0.0.1-older'));
      writeFileSync(join(bundle, 'version.json'), readFileSync(join(bundle, 'version.json'), 'utf8').replace(/"version": "[^"]*"/, '"version": "9.9.9"'));
      expect(install('--root', offlineLedger)).toMatchObject({ status: 0 });
      expect(readlinkSync(on('opt/stile'))).toMatch(/^stile\.d\/9\.9\.9-/);
      expect(
        readdirSync(on('opt/stile.d'))
          .map((name) => `stile.d/${name}`)
          .sort(),
      ).toEqual([before, readlinkSync(on('opt/stile'))].sort());
      expect(readFileSync(on('boot/firmware/config.txt'), 'utf8')).toBe(firmware);
      expect(readFileSync(on('etc/stile/gate.yaml'), 'utf8')).toBe(CONFIG);

      // S7: a release's floor stays, and what is older is refused with nothing changed.
      expect(readFileSync(on('var/lib/stile-floor/gate'), 'utf8')).toBe(
        `${(JSON.parse(readFileSync(join(bundle, 'version.json'), 'utf8')) as { floor: string }).floor}\n`,
      );
      writeFileSync(on('var/lib/stile-floor/gate'), '10.0.0\n');
      const running = readlinkSync(on('opt/stile'));
      expect(install('--root', offlineLedger)).toMatchObject({ status: 1, stderr: expect.stringContaining('9.9.9 is below 10.0.0') });
      expect(readlinkSync(on('opt/stile'))).toBe(running);

      expect(install('--root', offlineLedger, '--remove')).toMatchObject({ status: 0 });
      expect(readFileSync(on('boot/firmware/config.txt'), 'utf8')).toBe(FIRMWARE);
      expect(readdirSync(on('opt'))).toEqual([]);
      expect(readdirSync(on('etc/systemd/system/multi-user.target.wants'))).toEqual([]);
      expect(readdirSync(on('etc/stile')).sort()).toEqual(['conf.d', 'gate.key', 'gate.yaml', 'gate.yaml.example']);
    });
  });
