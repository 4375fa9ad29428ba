/**
 * Debian's kernel with `gpio-sim` in QEMU, on a small Debian with systemd and the bundle of this checkout: made anew for each
 * run from what test/kernel/fetch brought. The guest proves (inside.ts); here its words are heard.
 */
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { appendFileSync, chmodSync, cpSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { zstdDecompressSync } from 'node:zlib';
import { buildSync } from 'esbuild';
import { compiler } from '../disk/faulty-disk.ts';

const CHECKOUT = join(import.meta.dirname, '../..');
const FETCHED = join(CHECKOUT, '.tools/kernel');
const LIBRARIES = ['onoff', 'epoll', 'bindings', 'file-uri-to-path', 'lodash.debounce', 'koffi', '@koromix/koffi-linux-x64'];
/** As the first four bytes of a file say. */
const ZSTD_MAGIC = 0xfd2fb528;
/** Units of a whole system that a gate does without; an emulated processor takes a second or more for each. */
const UNNEEDED = [
  ...['ldconfig', 'systemd-hwdb-update', 'systemd-journal-catalog-update', 'systemd-update-done', 'systemd-journal-flush', 'systemd-random-seed'],
  ...['systemd-sysctl', 'systemd-modules-load', 'systemd-remount-fs', 'systemd-update-utmp', 'systemd-udev-trigger', 'systemd-tmpfiles-setup-dev'],
  ...['systemd-tmpfiles-setup-dev-early', 'systemd-udev-load-credentials', 'systemd-machine-id-commit', 'systemd-firstboot', 'systemd-tpm2-setup'],
  ...['systemd-tpm2-setup-early', 'systemd-pcrphase', 'systemd-pcrphase-sysinit', 'systemd-pcrmachine', 'systemd-hibernate-clear', 'systemd-binfmt'],
  ...['kmod-static-nodes', 'modprobe@'],
]
  .map((name) => `${name}.service`)
  .concat(['timers.target', 'paths.target', 'cryptsetup.target', 'integritysetup.target', 'veritysetup.target'])
  .concat(['dev-hugepages.mount', 'dev-mqueue.mount', 'sys-kernel-debug.mount', 'sys-fs-fuse-connections.mount', 'run-lock.mount', 'tmp.mount'])
  .concat(['proc-sys-fs-binfmt_misc.automount', 'systemd-ask-password-console.path', 'systemd-ask-password-wall.path', 'systemd-initctl.socket'])
  .concat(['systemd-creds.socket', 'systemd-sysext.socket', 'systemd-pcrextend.socket', 'systemd-pcrlock.socket', 'systemd-coredump.socket'])
  .concat(['systemd-hostnamed.socket']);
/** What they would generate: mounts of a table, logins on consoles, encrypted disks. The guest has none. */
const GENERATORS = 'usr/lib/systemd/system-generators';
/** The whole system lies in memory, twice while it is unpacked. */
const MEMORY_MB = 1_024;
/** What the kernel finds out, measures and guards on a real machine, and would spend seconds of the emulated one's time on. */
const KERNEL_SHORTCUTS =
  'mitigations=off rodata=off acpi=off lsm=capability nokaslr audit=0 tsc=reliable lpj=4000000 nowatchdog no_timer_check random.trust_cpu=1';

export interface GuestOptions {
  /** An empty folder for the machine's ramdisk and its log, on the file system of .tools. */
  readonly folder: string;
  /** dist/gate-x64, or a copy of it. */
  readonly bundle: string;
  /** The gate's store with its manifests, and the keys that they are checked with. */
  readonly store: string;
  readonly keys: string;
  /** What guests show, in this order. */
  readonly codes: readonly string[];
  /** Given to inside.ts, as `name=value`. */
  readonly settings: Readonly<Record<string, string>>;
  readonly heard: (line: string) => void;
}

export interface Guest {
  /** Processor time that the machine has taken here so far, seconds; 0 once it is off. */
  cpuS(): number;
  /** Resolves when the machine has said DONE and is off. Kills it after `boundMs`, and then rejects with what it last said. */
  off(boundMs: number): Promise<void>;
  kill(): void;
}

/** Returns the version of the fetched kernel, such as `7.2.12+deb13-amd64`. */
export const kernelVersion = (): string => /^linux (\S+)$/m.exec(readFileSync(join(FETCHED, 'versions'), 'utf8'))?.[1] ?? 'unknown';

export function startGuest(options: GuestOptions): Guest {
  const archive = makeRoot(options);
  const unpacked = join(FETCHED, 'qemu/qemu-system-x86_64');
  const machine = spawn(
    existsSync(unpacked) ? unpacked : 'qemu-system-x86_64',
    [
      // The guest's time is counted in its instructions (2 ns each), and jumps to the next timer when it has nothing to do: what it
      // measures depends on its own work alone, however busy this machine is, and waiting takes no time. For that, nothing outside it
      // may take part: its disk is memory, and its reader a line that hears itself (loop-reader.c).
      ...['-icount', 'shift=1,sleep=off'],
      // One processor: while the kernel rewrites its own code, QEMU 7.2 can let a second one run into the half-written place.
      ...['-M', 'pc', '-accel', 'tcg,thread=single', '-cpu', 'Nehalem,+rdrand', '-smp', '1', '-m', String(MEMORY_MB)],
      ...['-nodefaults', '-no-user-config', '-display', 'none', '-monitor', 'none', '-no-reboot'],
      ...['-kernel', kernelImage(), '-initrd', archive],
      ...['-append', `console=ttyS0 quiet loglevel=3 systemd.show_status=0 systemd.unit=prove.target panic=1 ${KERNEL_SHORTCUTS}`],
      ...['-chardev', 'stdio,id=console,signal=off', '-serial', 'chardev:console', '-serial', 'null'],
    ],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  return listen(machine, options);
}

function listen(machine: ChildProcess, { folder, heard }: GuestOptions): Guest {
  const log = join(folder, 'console.log');
  let rest = '';
  machine.stdout?.setEncoding('utf8').on('data', (text: string) => {
    appendFileSync(log, text);
    const lines = (rest + text).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines.map((one) => one.trim())) {
      heard(line);
      // Without ACPI, which costs seconds, the machine cannot turn itself off.
      if (line === 'DONE') machine.kill('SIGKILL');
    }
  });
  machine.stderr?.setEncoding('utf8').on('data', (text: string) => appendFileSync(log, text));
  const dieWithUs = () => machine.kill('SIGKILL');
  process.on('exit', dieWithUs);
  const ended = new Promise<void>((resolve, reject) => {
    machine.once('error', reject);
    machine.once('exit', () => {
      process.off('exit', dieWithUs);
      resolve();
    });
  });
  return {
    cpuS() {
      try {
        // After the command's name in brackets: user and system time are the 12th and 13th words, in hundredths of a second.
        const words = readFileSync(`/proc/${machine.pid}/stat`, 'utf8').split(') ').at(-1)?.split(' ') ?? [];
        return (Number(words[11]) + Number(words[12])) / 100;
      } catch {
        return 0;
      }
    },
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

/** The kernel itself, where it can be taken out of its self-extracting file: an emulated processor takes seconds for that. */
function kernelImage(): string {
  const packed = join(FETCHED, 'vmlinuz');
  const plain = join(FETCHED, 'vmlinux');
  if (existsSync(plain) && statSync(plain).mtimeMs >= statSync(packed).mtimeMs) return plain;
  // The boot protocol's header: sectors of set-up code, then where the compressed kernel begins in the rest, and how long it is.
  const file = readFileSync(packed);
  const begin = ((file[0x1f1] || 4) + 1) * 512 + file.readUInt32LE(0x248);
  const payload = file.subarray(begin, begin + file.readUInt32LE(0x24c));
  if (payload.length < 4 || payload.readUInt32LE(0) !== ZSTD_MAGIC) return packed;
  // Its last four bytes are the length of what comes out.
  writeFileSync(`${plain}.new`, zstdDecompressSync(payload.subarray(0, -4)));
  renameSync(`${plain}.new`, plain);
  return plain;
}

/** Everything the machine runs, as an initial ramdisk that stays its root. Answers the archive. */
function makeRoot({ folder, bundle, store, keys, codes, settings }: GuestOptions): string {
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
  symlinkSync('/run', join(root, 'var/run'));
  rmSync(join(root, GENERATORS), { recursive: true, force: true });
  for (const unneeded of UNNEEDED) execFileSync('ln', ['-sfn', '/dev/null', join(root, 'etc/systemd/system', unneeded)]);
  cpSync(join(FETCHED, 'modules'), join(root, 'modules'), { recursive: true });

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
  addProof(join(root, 'opt/prove'));
  put('opt/prove/codes', codes.join('\n'));
  const environment = Object.entries(settings).map(([name, value]) => `Environment=${name}=${value}`);
  put(
    'etc/systemd/system/prove.service',
    `[Unit]\nAfter=systemd-tmpfiles-setup.service systemd-udevd.service\n[Service]\nExecStart=/opt/stile/bin/node /opt/prove/inside.mjs\n${environment.join('\n')}\n`,
  );
  put('etc/systemd/system/prove.target', '[Unit]\nRequires=basic.target prove.service\n');
  put('init', INIT, 0o755);
  const node = join(root, 'opt/stile/bin/node');
  chmodSync(node, 0o755);
  // A quarter of it are names for debuggers. Where there is no strip they are carried along.
  spawnSync('strip', ['-o', `${node}.stripped`, node]);
  if (existsSync(`${node}.stripped`)) renameSync(`${node}.stripped`, node);
  const archive = join(folder, 'initrd');
  // An unprivileged user may have made all this: in the guest it is root's.
  execFileSync('sh', ['-c', `find . | '${join(FETCHED, 'busybox')}' cpio -o -H newc -R 0:0 >'${archive}' 2>/dev/null`], { cwd: root });
  if (statSync(archive).size < 50_000_000) throw new Error('the initial ramdisk is not whole');
  rmSync(root, { recursive: true });
  return archive;
}

/** Loads the kernel's parts that the proof needs, then gives over to systemd. */
const INIT = `#!/usr/bin/busybox sh
/usr/bin/busybox mount -t devtmpfs dev /dev
for module in $(/usr/bin/busybox cat /modules/order); do /usr/bin/busybox insmod /modules/$module.ko || /usr/bin/busybox echo "no $module"; done
exec /usr/lib/systemd/systemd
`;

/** Adds what runs in the guest beside the gate: the proof in one file, its reader, and the board's contract with the libraries that it imports. */
function addProof(to: string): void {
  mkdirSync(to);
  const inside = join(import.meta.dirname, 'inside.ts');
  buildSync({ entryPoints: [inside], outfile: join(to, 'inside.mjs'), bundle: true, platform: 'node', target: 'node26', format: 'esm', logLevel: 'warning' });
  const reader = join(to, 'loop-reader');
  const made = spawnSync(compiler ?? 'cc', ['-static', '-O2', '-Wall', '-Wextra', '-Werror', '-o', reader, join(import.meta.dirname, 'loop-reader.c')], {
    encoding: 'utf8',
  });
  if (made.status !== 0) throw new Error(`loop-reader.c does not compile: ${made.stderr}`);
  for (const path of [
    'test/kernel',
    'daemon/board',
    'runtime/libc.ts',
    'daemon/ports.ts',
    'daemon/sim/turnstile.ts',
    'package.json',
    ...LIBRARIES.map((name) => `node_modules/${name}`),
  ])
    cpSync(join(CHECKOUT, path), join(to, path), { recursive: true });
}
