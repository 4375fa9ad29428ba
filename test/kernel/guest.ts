/**
 * Debian's kernel with `gpio-sim` in QEMU, on a small Debian with systemd and the bundle of this checkout: made anew for each
 * run from what test/kernel/fetch brought. The guest proves (inside.ts); here its words are heard and its reader is played.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { appendFileSync, chmodSync, cpSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';

const CHECKOUT = join(import.meta.dirname, '../..');
const FETCHED = join(CHECKOUT, '.tools/kernel');
const LIBRARIES = ['onoff', 'epoll', 'bindings', 'file-uri-to-path', 'lodash.debounce', 'koffi', '@koromix/koffi-linux-x64'];
/** Units of a whole system that a gate does without; an emulated processor takes a second or more for each. */
const UNNEEDED = [
  ...[
    'ldconfig',
    'systemd-hwdb-update',
    'systemd-journal-catalog-update',
    'systemd-update-done',
    'systemd-journal-flush',
    'systemd-pcrphase',
    'systemd-random-seed',
  ],
  ...[
    'systemd-sysctl',
    'systemd-modules-load',
    'systemd-remount-fs',
    'systemd-update-utmp',
    'systemd-udev-trigger',
    'systemd-tmpfiles-setup-dev',
    'systemd-binfmt',
  ],
  ...['systemd-tmpfiles-setup-dev-early', 'systemd-udev-load-credentials', 'systemd-user-sessions', 'systemd-logind', 'systemd-networkd', 'systemd-timesyncd'],
  ...[
    'systemd-machine-id-commit',
    'systemd-firstboot',
    'systemd-tpm2-setup',
    'systemd-tpm2-setup-early',
    'mosquitto',
    'kmod-static-nodes',
    'serial-getty@',
    'modprobe@',
  ],
]
  .map((name) => `${name}.service`)
  .concat(['getty.target', 'timers.target', 'paths.target', 'cryptsetup.target', 'integritysetup.target', 'veritysetup.target', 'remote-fs.target'])
  .concat(['dev-hugepages.mount', 'dev-mqueue.mount', 'sys-kernel-debug.mount', 'sys-fs-fuse-connections.mount', 'run-lock.mount', 'tmp.mount'])
  .concat([
    'proc-sys-fs-binfmt_misc.automount',
    'systemd-ask-password-console.path',
    'systemd-ask-password-wall.path',
    'systemd-initctl.socket',
    'systemd-creds.socket',
  ])
  .concat(['systemd-sysext.socket', 'systemd-pcrextend.socket', 'systemd-pcrlock.socket', 'systemd-coredump.socket', 'systemd-hostnamed.socket']);
const IMAGE_MB = 768;
const MEMORY_MB = 1_024;

export interface GuestOptions {
  /** An empty folder for image, initrd and logs. */
  readonly folder: string;
  /** dist/gate-x64, or a copy of it. */
  readonly bundle: string;
  /** The gate's store with its manifests, and the keys that they are checked with. */
  readonly store: string;
  readonly keys: string;
  /** What is written into the guest's reader when it says `SHOW <n>`. */
  readonly codeOf: (n: number) => string;
  /** Given to inside.ts, as `name=value`. */
  readonly settings: Readonly<Record<string, string>>;
  readonly heard: (line: string) => void;
}

export interface Guest {
  /** Resolves when the machine is off. Kills it after `boundMs`, and then rejects with what it last said. */
  off(boundMs: number): Promise<void>;
  kill(): void;
}

/** Which kernel was fetched, such as `7.2.12+deb13-amd64`. */
export const kernelVersion = (): string => /^linux (\S+)$/m.exec(readFileSync(join(FETCHED, 'versions'), 'utf8'))?.[1] ?? 'unknown';

export function startGuest(options: GuestOptions): Guest {
  const { folder } = options;
  makeImage(options);
  makeInitrd(folder);
  const reader = join(folder, 'reader.sock');
  const machine = spawn(
    'qemu-system-x86_64',
    [
      // The guest's time is counted in its instructions (2 ns each): on a busy machine it runs slower, and its bounds stay what they are.
      ...['-icount', 'shift=1,sleep=on'],
      // One processor: while the kernel rewrites its own code, QEMU 7.2 can let a second one run into the half-written place.
      ...['-M', 'pc', '-accel', 'tcg,thread=single', '-cpu', 'Nehalem', '-smp', '1', '-m', String(MEMORY_MB)],
      ...['-nodefaults', '-no-user-config', '-display', 'none', '-monitor', 'none', '-no-reboot'],
      ...['-kernel', join(FETCHED, 'vmlinuz'), '-initrd', join(folder, 'initrd')],
      ...['-append', 'console=ttyS0 quiet loglevel=3 systemd.show_status=0 systemd.unit=prove.target random.trust_cpu=1 mitigations=off panic=1'],
      ...['-drive', `file=${join(folder, 'image')},if=virtio,format=raw,cache=unsafe`],
      ...['-chardev', 'stdio,id=console,signal=off', '-serial', 'chardev:console'],
      ...['-chardev', `socket,id=reader,path=${reader},server=on,wait=off`, '-serial', 'chardev:reader'],
    ],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  return listen(machine, reader, options);
}

function listen(machine: ChildProcess, reader: string, { folder, codeOf, heard }: GuestOptions): Guest {
  const log = join(folder, 'console.log');
  let rest = '';
  let wire: Socket | null = null;
  const show = (n: number) => {
    wire ??= connect(reader).on('error', () => {
      wire = null;
    });
    wire.write(`${codeOf(n)}\r\n`);
  };
  machine.stdout?.setEncoding('utf8').on('data', (text: string) => {
    appendFileSync(log, text);
    const lines = (rest + text).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines.map((one) => one.trim())) {
      const asked = /^SHOW (\d+)$/.exec(line)?.[1];
      if (asked !== undefined) show(Number(asked));
      heard(line);
    }
  });
  machine.stderr?.setEncoding('utf8').on('data', (text: string) => appendFileSync(log, text));
  const dieWithUs = () => machine.kill('SIGKILL');
  process.on('exit', dieWithUs);
  const ended = new Promise<void>((resolve, reject) => {
    machine.once('error', reject);
    machine.once('exit', () => {
      process.off('exit', dieWithUs);
      wire?.destroy();
      resolve();
    });
  });
  return {
    kill: () => void machine.kill('SIGKILL'),
    async off(boundMs) {
      let late = false;
      const timer = setTimeout(() => {
        late = true;
        machine.kill('SIGKILL');
      }, boundMs);
      await ended;
      clearTimeout(timer);
      if (late) throw new Error(`the emulated machine was not done within ${boundMs / 1_000} s; it last said:\n${readFileSync(log, 'utf8').slice(-2_000)}`);
    },
  };
}

function makeImage({ folder, bundle, store, keys, settings }: GuestOptions): void {
  const root = join(folder, 'root');
  // Hard links: nothing of what was fetched is changed in place.
  execFileSync('cp', ['-al', join(FETCHED, 'root'), root]);
  const put = (path: string, text: string, mode = 0o644) => {
    const file = join(root, path);
    mkdirSync(join(file, '..'), { recursive: true });
    rmSync(file, { force: true });
    writeFileSync(file, text, { mode });
  };
  const base = (name: string) => readFileSync(join(root, 'usr/share/base-passwd', name), 'utf8');
  put('etc/passwd', base('passwd.master'));
  put('etc/group', base('group.master'));
  put('etc/machine-id', '0123456789abcdef0123456789abcdef\n');
  put('etc/hostname', 'gate\n');
  rmSync(join(root, 'var/run'), { recursive: true, force: true });
  execFileSync('ln', ['-s', '/run', join(root, 'var/run')]);
  for (const unneeded of UNNEEDED) execFileSync('ln', ['-sfn', '/dev/null', join(root, 'etc/systemd/system', unneeded)]);

  cpSync(bundle, join(root, 'opt/stile'), { recursive: true });
  for (const [from, to] of [
    ['stile-gate.service', 'etc/systemd/system/stile-gate.service'],
    ['sysusers.d/stile.conf', 'etc/sysusers.d/stile.conf'],
    ['tmpfiles.d/stile.conf', 'etc/tmpfiles.d/stile.conf'],
    ['udev/60-stile.rules', 'etc/udev/rules.d/60-stile.rules'],
  ] as const)
    put(to, readFileSync(join(bundle, 'systemd', from), 'utf8'));
  put('etc/stile/gate.yaml', readFileSync(join(import.meta.dirname, 'gate.yaml'), 'utf8'));
  put('etc/stile/keys.json', readFileSync(keys, 'utf8'));
  cpSync(store, join(root, 'var/lib/stile'), { recursive: true });
  copyPrograms(join(root, 'opt/prove'));
  const environment = Object.entries(settings).map(([name, value]) => `Environment=${name}=${value}`);
  put(
    'etc/systemd/system/prove.service',
    `[Unit]\nAfter=systemd-tmpfiles-setup.service systemd-udevd.service\n[Service]\nExecStart=/opt/stile/bin/node /opt/prove/test/kernel/inside.ts\n${environment.join('\n')}\n`,
  );
  put('etc/systemd/system/prove.target', '[Unit]\nRequires=basic.target prove.service\n');
  chmodSync(join(root, 'opt/stile/bin/node'), 0o755);
  execFileSync('mke2fs', ['-q', '-F', '-t', 'ext4', '-m', '0', '-E', 'root_owner=0:0', '-d', root, join(folder, 'image'), `${IMAGE_MB}M`], {
    env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` },
  });
  rmSync(root, { recursive: true });
}

/** What runs in the guest beside the gate: the proofs, and the boards with the libraries that they import. */
function copyPrograms(to: string): void {
  for (const path of [
    'test/kernel',
    'daemon/board',
    'daemon/libc.ts',
    'daemon/ports.ts',
    'daemon/sim/turnstile.ts',
    'package.json',
    ...LIBRARIES.map((name) => `node_modules/${name}`),
  ])
    cpSync(join(CHECKOUT, path), join(to, path), { recursive: true });
}

/** Loads what the kernel needs to see its disk, then gives over to systemd. */
function makeInitrd(folder: string): void {
  const tree = join(folder, 'initrd.tree');
  for (const name of ['bin', 'proc', 'sys', 'dev', 'new']) mkdirSync(join(tree, name), { recursive: true });
  const busybox = join(FETCHED, 'busybox');
  cpSync(busybox, join(tree, 'bin/busybox'));
  cpSync(join(FETCHED, 'modules'), join(tree, 'modules'), { recursive: true });
  writeFileSync(
    join(tree, 'init'),
    `#!/bin/busybox sh
busybox mount -t proc proc /proc
busybox mount -t devtmpfs dev /dev
for module in $(busybox cat /modules/order); do busybox insmod /modules/$module.ko || busybox echo "no $module"; done
busybox mount -t ext4 /dev/vda /new || { busybox echo 'NO DISK'; busybox poweroff -f; }
# An unprivileged user made the image: everything in it belongs to that user.
[ "$(busybox stat -c %u /new/usr)" = 0 ] || busybox chown -R 0:0 /new
exec busybox switch_root /new /usr/lib/systemd/systemd
`,
    { mode: 0o755 },
  );
  const archive = execFileSync('sh', ['-c', `find . | '${busybox}' cpio -o -H newc 2>/dev/null`], { cwd: tree, maxBuffer: 64 * 1024 * 1024 });
  writeFileSync(join(folder, 'initrd'), archive);
  rmSync(tree, { recursive: true });
  if (statSync(join(folder, 'initrd')).size < 1_000_000) throw new Error('the initial ramdisk is empty');
}
