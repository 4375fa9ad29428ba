/** Two equal readers, told apart by showing a code: through the running gate, over real pseudo-terminals whose place in sysfs is preallocated as the kernel does it. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, readFileSync, realpathSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { CHECKOUT_LAUNCHER, createTestGate, type TestGate } from '../../testkit/gate.ts';
import { openPtyPair, type PtyPair } from '../sim/pty-pair.ts';
import { bindingRules, usbPorts } from './usb-ports.ts';

let at: TestGate;
let machine: string;
const pairs: PtyPair[] = [];
beforeAll(async () => {
  at = await createTestGate();
  machine = join(at.root, 'machine');
  for (const name of ['left', 'right']) pairs.push(openPtyPair({ readerLink: join(at.dir, name), guestLink: join(at.dir, `guest-${name}`) }));
  plant('left', '1-1.2:1.0', '188:0', 'platform-xhci-usb-0:1.2:1.0');
  plant('right', '1-1.3:1.0', '188:1', null);
  mkdirSync(join(at.dir, 'conf.d'));
  // As found: neither name leads anywhere yet.
  writeFileSync(join(at.dir, 'conf.d/readers.yaml'), 'readers: [{ name: in, path: ../not-yet-in }, { name: out, path: ../not-yet-out, direction: out }]\n');
});
afterEach(() => at.killAll());
afterAll(() => {
  for (const pair of pairs) pair.close();
  at.remove();
});

/** One tty as /sys and /run/udev show it. */
function plant(pair: string, usb: string, number: string, idPath: string | null): void {
  const tty = realpathSync(join(at.dir, pair)).replace('/dev/', '').replaceAll('/', '!');
  const parent = usb.split(':')[0] as string;
  const device = join(machine, 'sys/devices/platform/xhci/usb1/1-1', parent, usb);
  mkdirSync(join(device, 'tty', tty), { recursive: true });
  writeFileSync(join(dirname(device), 'product'), 'Newland Auto-ID NLS-FM30\n');
  writeFileSync(join(device, 'tty', tty, 'dev'), `${number}\n`);
  symlinkSync('../..', join(device, 'tty', tty, 'device'));
  mkdirSync(join(machine, 'sys/class/tty'), { recursive: true });
  symlinkSync(relative(join(machine, 'sys/class/tty'), join(device, 'tty', tty)), join(machine, 'sys/class/tty', tty));
  mkdirSync(join(machine, 'run/udev/data'), { recursive: true });
  if (idPath !== null) writeFileSync(join(machine, 'run/udev/data', `c${number}`), `S:serial/by-id/usb-Newland\nE:ID_PATH=${idPath}\nE:ID_BUS=usb\n`);
}

/** Runs `readers assign` and shows a code to the pair that stands where the asked reader does. */
async function assigning(where: Record<string, string>, ...args: readonly string[]) {
  const child: ChildProcess = spawn(CHECKOUT_LAUNCHER, ['readers', 'assign', ...args, '--machine-root', machine, '--config', at.config]);
  let [stdout, stderr] = ['', ''];
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
    for (const [, asked] of text.matchAll(/show any code to the reader (\w+)/g)) {
      // The first of them is held there a little longer: it must not be taken for the second.
      if (stdout.includes('reader in is at')) writeFileSync(join(at.dir, `guest-${where.in}`), 'SECRET-CODE\r\n');
      setTimeout(() => writeFileSync(join(at.dir, `guest-${where[asked as string]}`), 'SECRET-CODE\r\n'), 700);
    }
  });
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  return { code, stdout, stderr };
}

test('each is bound to the socket that its code came from; a second run changes only what it was asked', async () => {
  const gate = await at.start();
  const rules = join(at.root, '61-stile-readers.rules');
  const first = await assigning({ in: 'right', out: 'left' }, '--rules', rules);
  expect(first).toMatchObject({
    code: 0,
    stdout: expect.stringMatching(/reader in is at USB 1-1\.3:1\.0[\s\S]*that is the reader in again[\s\S]*reader out is at USB 1-1\.2:1\.0/),
  });
  expect(first.stdout).toContain('let reader in have path: /dev/stile-reader-in');
  expect(first.stdout + first.stderr).not.toContain('SECRET');
  expect(readFileSync(rules, 'utf8').split('\n').slice(1)).toEqual([
    'SUBSYSTEM=="tty", KERNELS=="1-1.3:1.0", SYMLINK+="stile-reader-in"',
    'SUBSYSTEM=="tty", ENV{ID_PATH}=="platform-xhci-usb-0:1.2:1.0", SYMLINK+="stile-reader-out"',
    '',
  ]);
  // S3: a link that somebody planted in the place of the rules, or of what was once written beside them.
  const [victim, planted] = [join(at.root, 'victim'), join(at.root, 'planted.rules')];
  writeFileSync(victim, 'untouched');
  symlinkSync(victim, planted);
  expect(await assigning({ out: 'left' }, 'out', '--rules', planted)).toMatchObject({ code: 1, stderr: expect.stringContaining('is a link') });
  symlinkSync(victim, `${rules}.new`);
  expect(await assigning({ out: 'left' }, 'out', '--rules', rules)).toMatchObject({ code: 0 });
  expect(readFileSync(victim, 'utf8')).toBe('untouched');
  const second = await assigning({ out: 'left' }, 'out', '--rules', rules, '--print');
  expect(second).toMatchObject({ code: 0, stdout: expect.stringContaining('SYMLINK+="stile-reader-in"') });
  // The ports are free again.
  expect(await assigning({ out: 'left' }, 'out', '--rules', join(at.root, 'no/such/folder.rules'), '--print')).toMatchObject({ code: 0 });
  expect(await at.cli('readers', 'assign', 'inn', '--machine-root', machine)).toMatchObject({ code: 2, stderr: expect.stringContaining('in, out') });
  expect(await at.cli('readers', 'assign', '--machine-root', machine, '--wait', '1')).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('no code came'),
  });
  expect(await at.cli('readers', 'assign', '--machine-root', at.root)).toMatchObject({ code: 1, stderr: expect.stringContaining('no serial port on USB') });
  await at.end(gate, 'SIGTERM');
});

test('ports are read as the kernel shows them', () => {
  expect(usbPorts(machine).map(({ usb, idPath, product }) => [usb, idPath, product])).toEqual([
    ['1-1.2:1.0', 'platform-xhci-usb-0:1.2:1.0', 'Newland Auto-ID NLS-FM30'],
    ['1-1.3:1.0', null, 'Newland Auto-ID NLS-FM30'],
  ]);
  expect(usbPorts(join(machine, 'nowhere'))).toEqual([]);
});

test('rules: what is bound anew replaces the reader’s old socket and the socket’s old reader; the rest and nothing foreign stays', () => {
  const port = (usb: string) => ({ dev: '/dev/ttyACM0', usb, idPath: null, product: '' });
  const one = bindingRules('', [
    { reader: 'in', port: port('1-1:1.0') },
    { reader: 'out', port: port('1-2:1.0') },
    { reader: 'staff', port: port('1-3:1.0') },
  ]);
  const two = bindingRules(`${one}RUN+="/bin/sh"\n`, [{ reader: 'in', port: port('1-2:1.0') }]);
  expect(two.split('\n').slice(1)).toEqual([
    'SUBSYSTEM=="tty", KERNELS=="1-3:1.0", SYMLINK+="stile-reader-staff"',
    'SUBSYSTEM=="tty", KERNELS=="1-2:1.0", SYMLINK+="stile-reader-in"',
    '',
  ]);
});
