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
 * In both share/doc: INSTALL.md, sbom.cdx.json (CycloneDX), THIRD-PARTY-LICENCES.txt. The same commit makes the same bytes (deploy/source-date.ts).
 *
 * Left out: the gate's, this machine's architecture, dist.
 * --no-database: the database is not compiled for it; what was compiled before is taken, else the prebuilt part.
 * For another architecture than this machine's it takes prebuilt parts from the npm registry (checked against the lock file) and
 * a cross compiler for the two parts that have none. Exit codes: 0 done, 1 failed, 2 usage, 69 the registry cannot be reached.
 */
import { spawnSync } from 'node:child_process';
import { chmodSync, copyFileSync, cpSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { Plugin } from 'esbuild';
import { SETUP_SQL } from '../cloud/db/logins.ts';
import { bundleProgram, bundleZod, lateZod } from './bundle-programs.ts';
import { ARCHITECTURES, type Arch, BundleError, compile, runTool } from './compile.ts';
import { copyLibatomic, copyNativeParts, runtimeFolder } from './native-parts.ts';
import { type Release, releaseOf } from './release-name.ts';
import { writeThirdParty } from './third-party.ts';

const root = join(import.meta.dirname, '..');
const modules = join(root, 'node_modules');

/** The parts of a kind of bundle, and the notes for the person who made it. */
interface Made {
  readonly inputs: readonly string[];
  readonly notes: readonly string[];
}

/** Packs the folder for carrying to a machine: owned by root, in order, of the release's time, so that the same files make the same archive. */
function pack(target: string, { madeAtMs }: Release): string {
  const archive = `${target}.tar.gz`;
  const order = ['--sort=name', `--mtime=@${Math.floor(madeAtMs / 1000)}`, '--owner=0', '--group=0', '--numeric-owner', '--mode=u=rwX,go=rX', '--format=gnu'];
  const packed = spawnSync('tar', ['-C', join(target, '..'), ...order, '-I', 'gzip -n -6', '-cf', `${archive}.new`, basename(target)], { encoding: 'utf8' });
  if (packed.status !== 0) throw new BundleError(1, `the archive could not be written: ${packed.stderr}`);
  renameSync(`${archive}.new`, archive);
  return archive;
}

/** Adds bin/, lib/ and share/doc/, which both kinds have. */
async function addProgram(
  arch: Arch,
  work: string,
  program: { readonly entry: string; readonly name: string; readonly launcher: string; readonly plugins?: readonly Plugin[] },
): Promise<Made & { readonly runtime: string }> {
  for (const folder of ['bin', 'lib/native', 'share/doc', 'systemd']) mkdirSync(join(work, folder), { recursive: true });
  const runtime = runtimeFolder(arch);
  const inputs = await bundleProgram(program.entry, program.name, join(work, 'lib'), program.plugins);
  copyFileSync(join(runtime, 'bin/node'), join(work, 'bin/node'));
  copyFileSync(join(root, program.launcher), join(work, 'bin', program.name));
  for (const file of ['node', program.name]) chmodSync(join(work, 'bin', file), 0o755);
  copyFileSync(join(root, 'docs/INSTALL.md'), join(work, 'share/doc/INSTALL.md'));
  const note = copyLibatomic(arch, join(work, 'lib/native'));
  return { runtime, inputs, notes: note === null ? [] : [note] };
}

/** Packages of which the native parts carry code, though no program imports them. */
const COMPILED = ['node_modules/nan/nan.h', 'node_modules/node-addon-api/napi.h'];

async function makeGate(arch: Arch, work: string, database: boolean): Promise<Made> {
  const { runtime, inputs, notes } = await addProgram(arch, work, {
    entry: 'deploy/entries/gate.ts',
    name: 'stile-gate',
    launcher: 'daemon/stile-gate',
    plugins: [lateZod],
  });
  // Apart from the command lines and from each other: each of the service's two threads reads few files, and none for another's sake.
  const run = await bundleProgram('deploy/entries/run.ts', 'stile-run', join(work, 'lib'), [lateZod]);
  const worker = await bundleProgram('deploy/entries/worker.ts', 'stile-decider', join(work, 'lib'), [lateZod]);
  const zod = await bundleZod(join(work, 'lib'));
  const more = copyNativeParts(arch, runtime, join(work, 'lib/native'), database);
  const step = join(work, 'libexec/stile-release');
  mkdirSync(join(work, 'libexec'));
  compile(arch, 'gcc', 'the stop step', ['-static', '-O2', '-Wall', '-Wextra', '-Werror', join(root, 'deploy/stop-step/stile-release.c'), '-o', step]);
  chmodSync(step, 0o755);
  copyFileSync(join(root, 'docs/gate.yaml.example'), join(work, 'share/gate.yaml.example'));
  cpSync(join(root, 'systemd'), join(work, 'systemd'), { recursive: true, filter: (path) => !/stile-(cloud|broker)\.(service|path)$/.test(path) });
  copyFileSync(join(root, 'deploy/install'), join(work, 'install'));
  chmodSync(join(work, 'install'), 0o755);
  return { inputs: [...inputs, ...run, ...worker, ...zod, ...COMPILED], notes: [...notes, ...more] };
}

async function makeCloud(arch: Arch, work: string): Promise<Made> {
  const { inputs, notes } = await addProgram(arch, work, { entry: 'cloud/cli/main.ts', name: 'stile-cloud', launcher: 'cloud/stile-cloud' });
  copyFileSync(join(modules, `better-sqlite3/prebuilds/linux-${arch}.node`), join(work, 'lib/native/better_sqlite3.node'));
  for (const folder of ['migrations', 'functions', 'views', 'triggers']) cpSync(join(root, 'cloud/db', folder), join(work, 'lib', folder), { recursive: true });
  cpSync(join(root, 'cloud/console/page'), join(work, 'lib/console'), { recursive: true });
  copyFileSync(join(root, 'deploy/mosquitto/mosquitto.conf'), join(work, 'share/mosquitto.conf'));
  cpSync(join(root, 'deploy/proxy'), join(work, 'share/proxy'), { recursive: true });
  copyFileSync(join(root, 'docs/policies.yaml.example'), join(work, 'share/policies.yaml.example'));
  writeFileSync(join(work, 'share/database.sql'), SETUP_SQL);
  copyFileSync(join(root, 'deploy/install-cloud'), join(work, 'install'));
  chmodSync(join(work, 'install'), 0o755);
  for (const file of ['stile-cloud.service', 'stile-broker.path', 'stile-broker.service', 'sysusers.d/stile.conf'])
    copyFileSync(join(root, 'systemd', file), join(work, 'systemd', basename(file)));
  return { inputs, notes };
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
  const release = releaseOf(root);
  const { inputs, notes } = await KINDS[kind](arch, work, !options.includes('--no-database'));
  const runtimeVersion = arch === process.arch ? process.versions.node : readFileSync(join(runtimeFolder(arch), '.version'), 'utf8').trim();
  const { version, commit, madeAtMs } = release;
  const runtime = runtimeFolder(arch);
  writeThirdParty(join(work, 'share/doc'), { root, program: `stile-${kind}`, version, commit, madeAtMs, inputs, runtime, runtimeVersion });
  const said = { version, floor: release.floor, commit, arch, runtime: runtimeVersion, built_at: new Date(madeAtMs).toISOString() };
  writeFileSync(join(work, 'version.json'), `${JSON.stringify(said, null, 2)}\n`);
  rmSync(target, { recursive: true, force: true });
  renameSync(work, target);
  const archive = options.includes('--no-archive') ? null : pack(target, release);
  for (const note of notes) process.stderr.write(`bundle: ${note}\n`);
  const megabytes = (file: string) => `${(statSync(file).size / 1_048_576).toFixed(1)} MB`;
  process.stdout.write(
    `${target}: Stile ${version} (${commit}) for ${arch}, its runtime ${megabytes(join(target, 'bin/node'))}\n${archive === null ? '' : `${archive}: ${megabytes(archive)}\n`}`,
  );
}

await runTool('bundle', main);
