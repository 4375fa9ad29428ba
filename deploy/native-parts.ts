/** Puts the native parts of a bundle beside its programs: prebuilt ones that the lock file pins, and those that must be compiled. */
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { databasePart } from './build-sqlite.ts';
import { type Arch, BundleError, compile, compiler } from './compile.ts';

const root = join(import.meta.dirname, '..');
const modules = join(root, 'node_modules');

/** The file of a package for another architecture, which npm has not installed here: fetched once, checked against the lock file. */
function fetchPackage(name: string): string {
  const folder = join(root, '.tools/native', name);
  if (existsSync(join(folder, 'package.json'))) return folder;
  const { packages } = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, { version: string; integrity: string }>;
  };
  const locked = packages[`node_modules/${name}`];
  if (locked === undefined) throw new BundleError(1, `${name} is not in package-lock.json`);
  mkdirSync(join(root, '.tools/native'), { recursive: true });
  const download = mkdtempSync(join(root, '.tools/native/download-'));
  try {
    const packed = spawnSync('npm', ['pack', `${name}@${locked.version}`, '--pack-destination', download, '--silent'], { cwd: root, encoding: 'utf8' });
    if (packed.status !== 0) throw new BundleError(69, `${name} could not be fetched: check the network, then try again`);
    const archive = join(download, packed.stdout.trim().split('\n').at(-1) ?? '');
    const found = `sha512-${createHash('sha512').update(readFileSync(archive)).digest('base64')}`;
    if (found !== locked.integrity) throw new BundleError(1, `${name} does not have the checksum of package-lock.json: it was not used`);
    execFileSync('tar', ['-xzf', archive, '-C', download]);
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(join(folder, '..'), { recursive: true });
    renameSync(join(download, 'package'), folder);
  } finally {
    rmSync(download, { recursive: true, force: true });
  }
  return folder;
}

/** The runtime of the architecture: this checkout's own, or fetched by deploy/setup. */
export function runtimeFolder(arch: Arch): string {
  if (arch === process.arch) return join(root, '.tools/node');
  const fetched = spawnSync(join(root, 'deploy/setup'), ['runtime', arch], { stdio: 'inherit' });
  if (fetched.status !== 0) throw new BundleError(fetched.status ?? 1, `the runtime for ${arch} could not be fetched`);
  return join(root, '.tools', `node-${arch}`);
}

/** Puts the gate's native parts into `folder`. Returns what whoever made the bundle should know. */
export function copyNativeParts(arch: Arch, runtime: string, folder: string, database: boolean): readonly string[] {
  mkdirSync(folder, { recursive: true });
  const koffi = arch === process.arch ? join(modules, `@koromix/koffi-linux-${arch}`) : fetchPackage(`@koromix/koffi-linux-${arch}`);
  const { file, note } = databasePart(arch, runtime, database);
  copyFileSync(file, join(folder, 'better_sqlite3.node'));
  const notes = note === null ? [] : [note];
  copyFileSync(
    join(modules, `@serialport/bindings-cpp/prebuilds/linux-${arch}/@serialport+bindings-cpp${arch === 'arm64' ? '.armv8' : ''}.glibc.node`),
    join(folder, 'serialport.node'),
  );
  copyFileSync(join(koffi, `linux_${arch}/koffi.node`), join(folder, 'koffi.node'));
  // onoff's part has no prebuilt file; one source file, no generator needed.
  if (compiler(arch, 'g++') === null)
    return [...notes, `without a C++ compiler for ${arch} onoff's native part was left out: this bundle drives no GPIO (board.driver: sim)`];
  compile(arch, 'g++', "onoff's native part (epoll)", [
    '-shared',
    '-fPIC',
    '-O2',
    '-std=gnu++20',
    '-fno-rtti',
    '-DBUILDING_NODE_EXTENSION',
    '-DNODE_GYP_MODULE_NAME=epoll',
    '-DUSING_UV_SHARED=1',
    '-DUSING_V8_SHARED=1',
    '-DV8_DEPRECATION_WARNINGS=0',
    '-w',
    `-I${join(runtime, 'include/node')}`,
    `-I${join(modules, 'nan')}`,
    join(modules, 'epoll/src/epoll.cc'),
    '-o',
    join(folder, 'epoll.node'),
  ]);
  return notes;
}

/**
 * The runtime needs libatomic, which a slim Debian does not have: the compiler's own copy goes along (the launcher names its folder).
 * The other libraries that it needs (C, C++) are part of every Debian.
 */
export function copyLibatomic(arch: Arch, folder: string): string | null {
  const found = compiler(arch, 'gcc');
  const file = found === null ? '' : execFileSync(found, ['-print-file-name=libatomic.so.1'], { encoding: 'utf8' }).trim();
  // Where there is none, the compiler answers the name alone.
  if (!file.startsWith('/')) return 'without libatomic, which the runtime needs: where it is missing, apt-get install libatomic1';
  copyFileSync(file, join(folder, 'libatomic.so.1'));
  return null;
}
