/**
 * Makes what a gate runs, without npm: one file for the daemon, one for its desk's worker, the native parts, the runtime,
 * the stop step, the units and the installer.
 *
 *   node deploy/bundle.ts [x64|arm64]      default: this machine's
 *
 * Answers in dist/gate-<arch>/ and dist/gate-<arch>.tar.gz. For the other architecture a cross compiler is needed
 * (Debian: gcc-aarch64-linux-gnu, g++-aarch64-linux-gnu), and the npm registry the first time. Exit codes: 0 done,
 * 1 failed, 2 usage.
 */
import { execFileSync } from 'node:child_process';
import { chmodSync, cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { arch as machineArch } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build, type Plugin } from 'esbuild';
import { buildEpoll, type BundleArch, compileStopStep, fetchRuntime, koffiPart, NATIVE_PARTS } from './native-parts.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const BUNDLED_FOR = ['x64', 'arm64'];

/** What the file of a bundle stands on: CommonJS libraries ask for `require` and `__dirname`, which ES modules don't have. */
const BANNER = [
  "import { createRequire as stileCreateRequire } from 'node:module';",
  'const require = stileCreateRequire(import.meta.url);',
  'const __filename = import.meta.filename;',
  'const __dirname = import.meta.dirname;',
].join('\n');

/** Each library looks for its native part in its own way; in the bundle all of them lie in lib/native. */
const nativeParts: Plugin = {
  name: 'native-parts',
  setup(builder) {
    for (const { loader, contents } of NATIVE_PARTS) builder.onLoad({ filter: loader }, () => ({ contents, loader: 'js' }));
  },
};

interface Build {
  readonly version: string;
  readonly commit: string;
  readonly builtAtMs: number;
}

/** Unchanged sources give the same time: the commit's own, so that a bundle can be made again byte for byte. */
function currentBuild(): Build {
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string };
  const git = (...args: string[]) => execFileSync('git', args, { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
  try {
    const commit = git('rev-parse', '--short=12', 'HEAD');
    return { version, commit, builtAtMs: Number(git('log', '-1', '--format=%ct')) * 1000 };
  } catch {
    return { version, commit: 'unknown', builtAtMs: Date.now() };
  }
}

/** Writes lib/stile-gate.mjs and lib/desk-worker.mjs. */
async function bundleProgram(lib: string, made: Build): Promise<void> {
  await build({
    entryPoints: [
      { in: join(root, 'daemon/cli/main.ts'), out: 'stile-gate' },
      { in: join(root, 'daemon/desk-worker.ts'), out: 'desk-worker' },
    ],
    outdir: lib,
    outExtension: { '.js': '.mjs' },
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node26',
    banner: { js: BANNER },
    define: { STILE_BUILD: JSON.stringify(made) },
    // Optional accelerators of ws, which asks for them and lives without.
    external: ['bufferutil', 'utf-8-validate'],
    legalComments: 'none',
    minifySyntax: true,
    minifyWhitespace: true,
    plugins: [nativeParts],
    logLevel: 'warning',
    metafile: false,
  });
}

/** Makes dist/gate-<arch> anew; answers the folder and the notes that whoever made it should read. */
async function bundle(arch: BundleArch): Promise<{ readonly folder: string; readonly archive: string; readonly notes: readonly string[] }> {
  const name = `gate-${arch}`;
  const folder = join(root, 'dist', name);
  const lib = join(folder, 'lib');
  const made = currentBuild();
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(join(lib, 'native'), { recursive: true });
  await bundleProgram(lib, made);

  const put = (from: string, to: string, mode = 0o644) => {
    const target = join(folder, to);
    mkdirSync(dirname(target), { recursive: true });
    cpSync(join(root, from), target);
    chmodSync(target, mode);
  };
  const notes: string[] = [];
  put(`node_modules/better-sqlite3/prebuilds/linux-${arch}.node`, 'lib/native/better-sqlite3.node');
  const serial = arch === 'arm64' ? '@serialport+bindings-cpp.armv8.glibc.node' : '@serialport+bindings-cpp.glibc.node';
  put(`node_modules/@serialport/bindings-cpp/prebuilds/linux-${arch}/${serial}`, 'lib/native/serialport.node');
  put(koffiPart(root, arch), 'lib/native/koffi.node');
  const runtime = fetchRuntime(root, arch);
  const epoll = buildEpoll(root, arch, runtime);
  if ('note' in epoll) notes.push(epoll.note);
  else put(epoll.file, 'lib/native/epoll.node');
  put(join(runtime, 'bin/node'), 'bin/node', 0o755);
  put('daemon/stile-gate', 'bin/stile-gate', 0o755);
  mkdirSync(join(folder, 'libexec'));
  compileStopStep(root, arch, join(folder, 'libexec/stile-release'));
  for (const unit of ['stile-gate.service', 'sysusers.d/stile.conf', 'tmpfiles.d/stile.conf', 'udev/60-stile.rules', 'modules-load.d/stile.conf', 'system.conf.d/50-stile.conf'])
    put(`systemd/${unit}`, `systemd/${unit}`);
  put('deploy/install', 'install', 0o755);
  put('docs/gate.yaml.example', 'share/gate.yaml.example');
  if (existsSync(join(root, 'docs/INSTALL.md'))) put('docs/INSTALL.md', 'share/doc/INSTALL.md');
  writeFileSync(
    join(folder, 'version.json'),
    `${JSON.stringify({ version: made.version, commit: made.commit, built_at: new Date(made.builtAtMs).toISOString(), arch }, null, 2)}\n`,
  );
  const archive = `${folder}.tar.gz`;
  execFileSync('tar', ['-C', join(root, 'dist'), '--owner=0', '--group=0', '--numeric-owner', '-czf', archive, name]);
  return { folder, archive, notes };
}

async function main(args: readonly string[]): Promise<number> {
  const [arch = machineArch(), ...more] = args;
  if (!BUNDLED_FOR.includes(arch) || more.length > 0) {
    process.stderr.write('usage: node deploy/bundle.ts [x64|arm64]\n');
    return 2;
  }
  try {
    const { folder, archive, notes } = await bundle(arch as BundleArch);
    for (const note of notes) process.stderr.write(`bundle: ${note}\n`);
    process.stdout.write(`${folder}\n${archive}\n`);
    return 0;
  } catch (error) {
    process.stderr.write(`bundle: ${(error as Error).message}\n`);
    return 1;
  }
}

process.exitCode = await main(process.argv.slice(2));
