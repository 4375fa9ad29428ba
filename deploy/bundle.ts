/**
 * Makes what runs without npm: for a gate, and for the cloud's server.
 *
 *   node deploy/bundle.ts [gate|cloud] [x64|arm64] [folder] [--no-archive] [--no-database]      → <folder>/gate-<arch>/ and <folder>/gate-<arch>.tar.gz
 *
 *   gate    bin/node  bin/stile-gate  lib/stile-{gate,run,decider}.mjs and their parts  lib/zod.cjs  lib/native/*.node  libexec/stile-release
 *           systemd/  share/gate.yaml.example  share/doc/INSTALL.md  install  version.json
 *   cloud   bin/node  bin/stile-cloud  lib/stile-cloud.mjs and its parts  lib/native  lib/migrations  lib/functions  lib/views  lib/triggers  lib/console  systemd/
 *           share/{mosquitto.conf,database.sql,policies.yaml.example,proxy,doc}  install  version.json
 *
 * Left out: the gate's, this machine's architecture, dist.
 * --no-database: the database is not compiled for it; what was compiled before is taken, else the prebuilt part.
 * For another architecture than this machine's it takes prebuilt parts from the npm registry (checked against the lock file) and
 * a cross compiler for the two parts that have none. Exit codes: 0 done, 1 failed, 2 usage, 69 the registry cannot be reached.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, copyFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { build, type Plugin } from 'esbuild';
import { SETUP_SQL } from '../cloud/db/logins.ts';
import { stileVersion } from '../runtime/build-info.ts';
import { databasePart } from './build-sqlite.ts';
import { ARCHITECTURES, type Arch, BundleError, compile, compiler } from './compile.ts';

const root = join(import.meta.dirname, '..');
const modules = join(root, 'node_modules');

/** Each package that loads a native part by its own search, and what it does instead: lib/native beside the bundle. */
const LOADERS: readonly { readonly file: RegExp; readonly contents: string }[] = [
  {
    file: /better-sqlite3\/lib\/binding\.js$/,
    contents: "exports.getBinding = () => require('./native/better_sqlite3.node'); exports.getPrebuildPath = () => null;",
  },
  { file: /node-gyp-build\/index\.js$/, contents: "module.exports = () => require('./native/serialport.node');" },
  { file: /koffi\/src\/koffi\/src\/static\.js$/, contents: "export const loadStatic = () => require('./native/koffi.node');" },
  { file: /bindings\/bindings\.js$/, contents: "module.exports = () => require('./native/epoll.node');" },
];

/** What a gate does not use of a package, and would load with every start: other systems' ports, every parser, a child process to list ports with. */
const LEFT_OUT: typeof LOADERS = [
  { file: /node_modules\/serialport\/dist\/index\.js$/, contents: "exports.SerialPort = require('./serialport').SerialPort;" },
  {
    file: /@serialport\/bindings-cpp\/dist\/index\.js$/,
    contents: "const { LinuxBinding } = require('./linux'); exports.LinuxBinding = LinuxBinding; exports.autoDetect = () => LinuxBinding;",
  },
  {
    file: /@serialport\/bindings-cpp\/dist\/linux-list\.js$/,
    contents: "exports.linuxList = () => Promise.reject(new Error('ports are listed by stile-gate readers'));",
  },
];

const nativeParts: Plugin = {
  name: 'native parts beside the bundle',
  setup(builder) {
    for (const { file, contents } of [...LOADERS, ...LEFT_OUT]) builder.onLoad({ filter: file }, () => ({ contents, loader: 'js' }));
    // A gate's own mistakes are told in English; zod's texts in fifty languages are not carried along.
    builder.onLoad({ filter: /zod\/v4\/locales\/index\.js$/ }, () => ({ contents: "export { default as en } from './en.js';", loader: 'js' }));
    builder.onResolve({ filter: /^\.\/native\// }, ({ path }) => ({ path, external: true }));
  },
};

/** zod in a file of its own, beside the parts that note down what they want of it (late-zod.ts). */
const lateZod: Plugin = {
  name: 'zod when it is needed',
  setup(builder) {
    builder.onResolve({ filter: /^zod$/ }, () => ({ path: join(root, 'deploy/lazy-zod.ts') }));
  },
};

async function bundleZod(lib: string): Promise<void> {
  await build({
    stdin: { contents: "export { z } from 'zod';", resolveDir: root },
    outfile: join(lib, 'zod.cjs'),
    bundle: true,
    platform: 'node',
    target: 'node26',
    format: 'cjs',
    minifySyntax: true,
    minifyWhitespace: true,
    legalComments: 'none',
    logLevel: 'warning',
    plugins: [nativeParts],
  });
}

async function bundleProgram(entry: string, name: string, lib: string, plugins: readonly Plugin[] = []): Promise<number> {
  const { metafile, warnings } = await build({
    // One program in parts: what only a command line, the decider's worker or the uplink needs is read when it is needed (0111-bundle-in-parts.md).
    entryPoints: [{ in: join(root, entry), out: name }],
    outdir: lib,
    outExtension: { '.js': '.mjs' },
    chunkNames: '[name]-[hash]',
    splitting: true,
    bundle: true,
    platform: 'node',
    target: 'node26',
    format: 'esm',
    minifySyntax: true,
    minifyWhitespace: true,
    legalComments: 'none',
    metafile: true,
    logLevel: 'warning',
    plugins: [nativeParts, ...plugins],
    define: { STILE_BUILD: JSON.stringify({ ...stileVersion(), builtAtMs: Date.now() }) },
    // What the libraries of the CommonJS kind expect to find.
    banner: {
      js: "import { createRequire as stileRequire } from 'node:module'; const require = stileRequire(import.meta.url); const __filename = import.meta.filename; const __dirname = import.meta.dirname;",
    },
  });
  if (warnings.length > 0) throw new BundleError(1, 'esbuild warns (above): the bundle is not trusted');
  return Object.keys(metafile.inputs).length;
}

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
function runtimeFolder(arch: Arch): string {
  if (arch === process.arch) return join(root, '.tools/node');
  const fetched = spawnSync(join(root, 'deploy/setup'), ['runtime', arch], { stdio: 'inherit' });
  if (fetched.status !== 0) throw new BundleError(fetched.status ?? 1, `the runtime for ${arch} could not be fetched`);
  return join(root, '.tools', `node-${arch}`);
}

/** Answers what whoever made the bundle should know, or null. */
function copyNativeParts(arch: Arch, runtime: string, folder: string, database: boolean): readonly string[] {
  mkdirSync(folder, { recursive: true });
  const koffi = arch === process.arch ? join(modules, `@koromix/koffi-linux-${arch}`) : fetchPackage(`@koromix/koffi-linux-${arch}`);
  const { file, note } = databasePart(arch, runtime, database);
  copyFileSync(file, join(folder, 'better_sqlite3.node'));
  const pendingEntries = note === null ? [] : [note];
  copyFileSync(
    join(modules, `@serialport/bindings-cpp/prebuilds/linux-${arch}/@serialport+bindings-cpp${arch === 'arm64' ? '.armv8' : ''}.glibc.node`),
    join(folder, 'serialport.node'),
  );
  copyFileSync(join(koffi, `linux_${arch}/koffi.node`), join(folder, 'koffi.node'));
  // onoff's part has no prebuilt file; one source file, no generator needed.
  if (compiler(arch, 'g++') === null)
    return [...pendingEntries, `without a C++ compiler for ${arch} onoff's native part was left out: this bundle drives no GPIO (board.driver: sim)`];
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
  return pendingEntries;
}

/**
 * The runtime needs libatomic, which a slim Debian does not have: the compiler's own copy goes along (the launcher names its folder).
 * The other libraries that it needs (C, C++) are part of every Debian.
 */
function copyLibatomic(arch: Arch, folder: string): string | null {
  const found = compiler(arch, 'gcc');
  const file = found === null ? '' : execFileSync(found, ['-print-file-name=libatomic.so.1'], { encoding: 'utf8' }).trim();
  // Where there is none, the compiler answers the name alone.
  if (!file.startsWith('/')) return 'without libatomic, which the runtime needs: where it is missing, apt-get install libatomic1';
  copyFileSync(file, join(folder, 'libatomic.so.1'));
  return null;
}

/** For carrying to a gate. Named beside the folder; owned by root, whoever made it. */
function pack(target: string): string {
  const archive = `${target}.tar.gz`;
  const packed = spawnSync('tar', ['-C', join(target, '..'), '--owner=0', '--group=0', '--numeric-owner', '-czf', `${archive}.new`, basename(target)], {
    encoding: 'utf8',
  });
  if (packed.status !== 0) throw new BundleError(1, `the archive could not be written: ${packed.stderr}`);
  renameSync(`${archive}.new`, archive);
  return archive;
}

/** Adds bin/, lib/ and share/doc/, which both kinds have. Answers what whoever made the bundle should know. */
async function addProgram(
  arch: Arch,
  work: string,
  program: { readonly entry: string; readonly name: string; readonly launcher: string; readonly plugins?: readonly Plugin[] },
): Promise<{ readonly runtime: string; readonly pendingEntries: readonly string[] }> {
  for (const folder of ['bin', 'lib/native', 'share/doc', 'systemd']) mkdirSync(join(work, folder), { recursive: true });
  const runtime = runtimeFolder(arch);
  await bundleProgram(program.entry, program.name, join(work, 'lib'), program.plugins);
  copyFileSync(join(runtime, 'bin/node'), join(work, 'bin/node'));
  copyFileSync(join(root, program.launcher), join(work, 'bin', program.name));
  for (const file of ['node', program.name]) chmodSync(join(work, 'bin', file), 0o755);
  copyFileSync(join(root, 'docs/INSTALL.md'), join(work, 'share/doc/INSTALL.md'));
  const note = copyLibatomic(arch, join(work, 'lib/native'));
  return { runtime, pendingEntries: note === null ? [] : [note] };
}

async function makeGate(arch: Arch, work: string, database: boolean): Promise<readonly string[]> {
  const { runtime, pendingEntries } = await addProgram(arch, work, {
    entry: 'deploy/entries/gate.ts',
    name: 'stile-gate',
    launcher: 'daemon/stile-gate',
    plugins: [lateZod],
  });
  // Apart from the command lines and from each other: each of the service's two threads reads few files, and none for another's sake.
  await bundleProgram('deploy/entries/run.ts', 'stile-run', join(work, 'lib'), [lateZod]);
  await bundleProgram('deploy/entries/worker.ts', 'stile-decider', join(work, 'lib'), [lateZod]);
  await bundleZod(join(work, 'lib'));
  const more = copyNativeParts(arch, runtime, join(work, 'lib/native'), database);
  const step = join(work, 'libexec/stile-release');
  mkdirSync(join(work, 'libexec'));
  compile(arch, 'gcc', 'the stop step', ['-static', '-O2', '-Wall', '-Wextra', '-Werror', join(root, 'deploy/stop-step/stile-release.c'), '-o', step]);
  chmodSync(step, 0o755);
  copyFileSync(join(root, 'docs/gate.yaml.example'), join(work, 'share/gate.yaml.example'));
  cpSync(join(root, 'systemd'), join(work, 'systemd'), { recursive: true, filter: (path) => !path.endsWith('stile-cloud.service') });
  copyFileSync(join(root, 'deploy/install'), join(work, 'install'));
  chmodSync(join(work, 'install'), 0o755);
  return [...pendingEntries, ...more];
}

async function makeCloud(arch: Arch, work: string): Promise<readonly string[]> {
  const { pendingEntries } = await addProgram(arch, work, { entry: 'cloud/cli/main.ts', name: 'stile-cloud', launcher: 'cloud/stile-cloud' });
  copyFileSync(join(modules, `better-sqlite3/prebuilds/linux-${arch}.node`), join(work, 'lib/native/better_sqlite3.node'));
  for (const folder of ['migrations', 'functions', 'views', 'triggers']) cpSync(join(root, 'cloud/db', folder), join(work, 'lib', folder), { recursive: true });
  cpSync(join(root, 'cloud/console/page'), join(work, 'lib/console'), { recursive: true });
  copyFileSync(join(root, 'deploy/mosquitto/mosquitto.conf'), join(work, 'share/mosquitto.conf'));
  cpSync(join(root, 'deploy/proxy'), join(work, 'share/proxy'), { recursive: true });
  copyFileSync(join(root, 'docs/policies.yaml.example'), join(work, 'share/policies.yaml.example'));
  writeFileSync(join(work, 'share/database.sql'), SETUP_SQL);
  copyFileSync(join(root, 'deploy/install-cloud'), join(work, 'install'));
  chmodSync(join(work, 'install'), 0o755);
  for (const file of ['stile-cloud.service', 'sysusers.d/stile.conf']) copyFileSync(join(root, 'systemd', file), join(work, 'systemd', basename(file)));
  return pendingEntries;
}

const KINDS = { gate: makeGate, cloud: makeCloud };

async function main(options: readonly string[]): Promise<void> {
  const given = options.filter((option) => option !== '--no-archive' && option !== '--no-database');
  const [kind, ...rest] = given[0] === 'gate' || given[0] === 'cloud' ? (given as [keyof typeof KINDS, ...string[]]) : (['gate', ...given] as const);
  const arch = (rest[0] ?? process.arch) as Arch;
  if (rest.length > 2 || !ARCHITECTURES.includes(arch))
    throw new BundleError(2, 'usage: node deploy/bundle.ts [gate|cloud] [x64|arm64] [folder] [--no-archive] [--no-database]');
  const target = join(rest[1] ?? join(root, 'dist'), `${kind}-${arch}`);
  const work = `${target}.new`;
  rmSync(work, { recursive: true, force: true });
  const pendingEntries = await KINDS[kind](arch, work, !options.includes('--no-database'));
  const { version, commit } = stileVersion();
  const runtime = arch === process.arch ? process.versions.node : readFileSync(join(runtimeFolder(arch), '.version'), 'utf8').trim();
  writeFileSync(join(work, 'version.json'), `${JSON.stringify({ version, commit, arch, runtime, built_at: new Date().toISOString() }, null, 2)}\n`);
  rmSync(target, { recursive: true, force: true });
  renameSync(work, target);
  const archive = options.includes('--no-archive') ? null : pack(target);
  for (const note of pendingEntries) process.stderr.write(`bundle: ${note}\n`);
  const megabytes = (file: string) => `${(statSync(file).size / 1_048_576).toFixed(1)} MB`;
  process.stdout.write(
    `${target}: Stile ${version} (${commit}) for ${arch}, its runtime ${megabytes(join(target, 'bin/node'))}\n${archive === null ? '' : `${archive}: ${megabytes(archive)}\n`}`,
  );
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  process.stderr.write(`bundle: ${error instanceof BundleError ? error.message : (error as Error).stack}\n`);
  process.exitCode = error instanceof BundleError ? error.exitCode : 1;
}
