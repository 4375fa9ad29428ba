/** The parts of a bundle that are machine code: where each comes from, and how the bundled libraries find it. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { arch as machineArch } from 'node:os';
import { join, relative } from 'node:path';

export type BundleArch = 'x64' | 'arm64';

/** In place of each library's own search: the part beside the bundle. `require` is the banner's (deploy/bundle.ts). */
const beside = (file: string) => `require('./native/${file}')`;

/** `loader`: the file of the library that finds its native part; `contents`: what stands for it in the bundle. */
export const NATIVE_PARTS: readonly { readonly loader: RegExp; readonly contents: string }[] = [
  { loader: /better-sqlite3[\\/]lib[\\/]binding\.js$/, contents: `module.exports.getBinding = () => ${beside('better-sqlite3.node')};` },
  { loader: /bindings-cpp[\\/]dist[\\/]serialport-bindings\.js$/, contents: `exports.binding = ${beside('serialport.node')};` },
  { loader: /koffi[\\/]src[\\/]koffi[\\/]src[\\/]static\.js$/, contents: `export const loadStatic = () => ${beside('koffi.node')};` },
  { loader: /[\\/]epoll[\\/]epoll\.js$/, contents: `module.exports = ${beside('epoll.node')};` },
];

const run = (command: string, args: readonly string[], cwd: string, env: NodeJS.ProcessEnv = process.env) =>
  execFileSync(command, [...args], { cwd, env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], maxBuffer: 16 * 1024 * 1024 });

/** The pinned runtime for an architecture, its headers included. Answers its folder. */
export function fetchRuntime(root: string, arch: BundleArch): string {
  if (arch === machineArch() && existsSync(join(root, '.tools/node/.version'))) return '.tools/node';
  run(join(root, 'deploy/setup'), ['runtime', arch], root);
  return `.tools/node-${arch}`;
}

/** koffi's native part: installed for this machine, fetched by npm (and held against the lock file) for another. Answers its path below `root`. */
export function koffiPart(root: string, arch: BundleArch): string {
  const library = `@koromix/koffi-linux-${arch}`;
  const installed = `node_modules/${library}`;
  const part = `linux_${arch}/koffi.node`;
  if (existsSync(join(root, installed, part))) return join(installed, part);
  const lock = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as { packages: Record<string, { version: string; integrity: string }> };
  const pinned = lock.packages[installed];
  if (pinned === undefined) throw new Error(`${library} is not in package-lock.json: run npm install once with the network, and commit the lock file`);
  const folder = join('.tools/native', `koffi-${arch}-${pinned.version}`);
  if (existsSync(join(root, folder, part))) return join(folder, part);
  mkdirSync(join(root, folder), { recursive: true });
  const fetched = mkdtempSync(join(root, '.tools/fetch-'));
  try {
    run('npm', ['pack', `${library}@${pinned.version}`, '--pack-destination', fetched, '--silent'], root);
    const archive = join(fetched, readdirSync(fetched)[0] ?? '');
    const found = `sha512-${createHash('sha512').update(readFileSync(archive)).digest('base64')}`;
    if (found !== pinned.integrity) throw new Error(`${library}: the checksum is not the lock file's: it was not used; try again, and if it stays so, do not`);
    run('tar', ['-xzf', archive, '-C', join(root, folder), '--strip-components=1'], root);
  } finally {
    rmSync(fetched, { recursive: true, force: true });
  }
  return join(folder, part);
}

/** onoff's native part has no prebuilt binary. Without a compiler the bundle is made all the same, and the note says what it lacks. */
export function buildEpoll(root: string, arch: BundleArch, runtime: string): { readonly file: string } | { readonly note: string } {
  const version = (JSON.parse(readFileSync(join(root, 'node_modules/epoll/package.json'), 'utf8')) as { version: string }).version;
  const runtimeVersion = readFileSync(join(root, runtime, '.version'), 'utf8').trim();
  const folder = join(root, '.tools/native', `epoll-${arch}-${version}-${runtimeVersion}`);
  const file = join(folder, 'build/Release/epoll.node');
  if (!existsSync(file)) {
    const cross = arch !== machineArch();
    const prefix = arch === 'arm64' ? 'aarch64-linux-gnu' : 'x86_64-linux-gnu';
    const tools = cross ? { CC: `${prefix}-gcc`, CXX: `${prefix}-g++`, AR: `${prefix}-ar`, LINK: `${prefix}-g++` } : {};
    const missing = [cross ? `${prefix}-g++` : 'g++', 'make', 'python3'].filter((tool) => !onPath(tool));
    if (missing.length > 0) {
      const packages = cross ? `g++-${arch === 'arm64' ? 'aarch64' : 'x86-64'}-linux-gnu make python3` : 'g++ make python3';
      return { note: `made without onoff's native part, for board.driver: sim alone: ${missing.join(', ')} missing (Debian: apt-get install ${packages})` };
    }
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(folder, { recursive: true });
    cpSync(join(root, 'node_modules/epoll'), folder, { recursive: true });
    // Its header library is asked for by name while the build is described.
    mkdirSync(join(folder, 'node_modules'));
    cpSync(join(root, 'node_modules/nan'), join(folder, 'node_modules/nan'), { recursive: true });
    const gyp = nodeGyp(root);
    try {
      run(process.execPath, [gyp, 'rebuild', `--arch=${arch}`, `--nodedir=${join(root, runtime)}`], folder, { ...process.env, ...tools, npm_config_arch: arch });
    } catch (error) {
      rmSync(folder, { recursive: true, force: true });
      return { note: `made without onoff's native part, for board.driver: sim alone: it did not build: ${(error as { stderr?: string }).stderr?.trim().split('\n').at(-1) ?? error}` };
    }
  }
  return { file: relative(root, file) };
}

/** npm carries its own. */
function nodeGyp(root: string): string {
  const places = [
    join(root, 'node_modules/node-gyp/bin/node-gyp.js'),
    join(run('npm', ['root', '-g'], root).trim(), 'npm/node_modules/node-gyp/bin/node-gyp.js'),
    '/usr/share/nodejs/npm/node_modules/node-gyp/bin/node-gyp.js',
    '/usr/share/nodejs/node-gyp/bin/node-gyp.js',
  ];
  const found = places.find((place) => existsSync(place));
  if (found === undefined) throw new Error(`node-gyp is not here (looked in ${places.join(', ')}): install npm whole`);
  return found;
}

/** The stop step, linked statically: it runs from memory, on whatever C library. */
export function compileStopStep(root: string, arch: BundleArch, to: string): void {
  const compilers = arch === machineArch() ? ['cc', 'gcc'] : [arch === 'arm64' ? 'aarch64-linux-gnu-gcc' : 'x86_64-linux-gnu-gcc'];
  const compiler = compilers.find(onPath);
  if (compiler === undefined) {
    const wanted = arch === machineArch() ? 'gcc' : `gcc-${arch === 'arm64' ? 'aarch64' : 'x86-64'}-linux-gnu`;
    throw new Error(`no C compiler for ${arch}, and no gate is made without its stop step: apt-get install ${wanted}`);
  }
  run(compiler, ['-Os', '-Wall', '-Werror', '-static', '-s', '-o', to, 'deploy/stop-step/stile-release.c'], root);
}

function onPath(tool: string): boolean {
  return (process.env['PATH'] ?? '').split(':').some((folder) => folder !== '' && existsSync(join(folder, tool)));
}
