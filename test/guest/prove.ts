/**
 * Proves the installer and the units without a Pi, from empty to the first admission and through every way in which a gate can
 * end. Database, broker and cloud are real and run on this machine; the gate's Debian has nothing but the bundle.
 *
 *   node test/guest/prove.ts emulated [--keep]   an arm64 machine in QEMU, with its own kernel (about 14 minutes)
 *   node test/guest/prove.ts native [--keep]     this machine's kernel and processor, in namespaces: the bounds at a real speed
 *
 * An emulated processor is 20 times and more slower than a Pi's: there the unit's WatchdogSec is raised, and the bounds are.
 * Needs root and what test/guest/make-rootfs needs; `emulated` also qemu-system-aarch64 and a cross compiler.
 * Exit codes: 0 all proven, 1 not all, 2 usage.
 */
import { chmodSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { openPtyPair } from '../../daemon/sim/pty-pair.ts';
import { bootContainer, unpackSystem } from './container.ts';
import { bootEmulated, EMULATED_HOST, EMULATED_READER, type Machine } from './emulated.ts';
import { CODES, configuration, openVenue, type Release, run } from './environment.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
/** From the start of the machine to DONE. */
const BOUND_MS = { emulated: 25 * 60_000, native: 6 * 60_000 };
/** What the emulated unit is given instead of its 3 s. */
const EMULATED_WATCHDOG_S = 30;

type How = 'emulated' | 'native';
interface Proof {
  readonly name: string;
  readonly ok: boolean;
  readonly detail: string;
  /** Since the proof before. */
  readonly tookMs: number;
}

const log = (words: string) => process.stderr.write(`prove: ${words}\n`);

/** The Debian system with the bundle, the gate's files and the proof in it. Answers its folder. */
function makeTree(how: How, folder: string, files: string, config: string): string {
  const tree = join(folder, 'tree');
  mkdirSync(tree);
  unpackSystem(join(root, `.tools/guest/rootfs${how === 'native' ? `-${process.arch}` : ''}.tar`), tree);
  mkdirSync(join(tree, 'root/bundle'));
  run('tar', ['-C', join(tree, 'root/bundle'), '--strip-components=1', '-xzf', join(root, `dist/gate-${how === 'native' ? process.arch : 'arm64'}.tar.gz`)]);
  run('cp', ['-R', files, join(tree, 'root/files')]);
  writeFileSync(join(tree, 'root/gate.yaml'), config, { mode: 0o600 });
  copyFileSync(join(root, 'test/guest/inside.ts'), join(tree, 'root/inside.ts'));
  const environment = [
    'LD_LIBRARY_PATH=/root/bundle/lib/native',
    ...(how === 'native' ? ['PROVE_CONSOLE=/console'] : ['PROVE_CONSOLE=/dev/ttyAMA0', `PROVE_WATCHDOG_S=${EMULATED_WATCHDOG_S}`]),
  ];
  writeFileSync(
    join(tree, 'etc/systemd/system/prove.service'),
    `[Unit]\nAfter=multi-user.target\n[Service]\nType=exec\nEnvironment=${environment.join(' ')}\nExecStart=/root/bundle/bin/node /root/inside.ts\n`,
  );
  const wanted = join(tree, 'etc/systemd/system/multi-user.target.wants');
  mkdirSync(wanted, { recursive: true });
  symlinkSync('../prove.service', join(wanted, 'prove.service'));
  if (how === 'emulated') {
    symlinkSync('/lib/systemd/system/systemd-networkd.service', join(wanted, 'systemd-networkd.service'));
    mkdirSync(join(tree, 'etc/systemd/system/stile-gate.service.d'));
    writeFileSync(join(tree, 'etc/systemd/system/stile-gate.service.d/emulated.conf'), `[Service]\nWatchdogSec=${EMULATED_WATCHDOG_S}\nTimeoutStartSec=300\n`);
  }
  writeFileSync(join(tree, 'etc/fstab'), how === 'emulated' ? '/dev/vda / ext4 defaults 0 0\n' : '');
  writeFileSync(join(tree, 'etc/hostname'), 'guest\n');
  return tree;
}

/** A second cloud, as its unit runs it, on a port of its own: the bundle, and the files that its environment names. */
function addCloud(tree: string, folder: string, environment: Readonly<Record<string, string>>): void {
  const place = join(tree, 'root/cloud');
  mkdirSync(place);
  run('tar', ['-C', place, '-xzf', join(root, `dist/cloud-${process.arch}.tar.gz`)]);
  for (const file of ['ca.pem', 'cloud.pem', 'cloud.key', 'signing-key.pem']) copyFileSync(join(folder, file), join(place, file));
  const lines = Object.entries({ ...environment, STILE_HTTP_PORT: '0', STILE_HOST: 'cloud-2' }).map(
    ([name, value]) => `${name}=${value.replace(`${folder}/signing-key.pem`, '/var/lib/stile-cloud/signing-key.pem').replace(`${folder}/`, '/etc/stile/')}\n`,
  );
  writeFileSync(join(place, 'cloud.env'), lines.join(''));
}

/** A reader whose other end this machine holds. `path`: as the gate's configuration names it. */
function openReader(how: How, releases: Release[]): { readonly path: string; readonly show: ((code: string) => void) | null } {
  if (how === 'emulated') return { path: EMULATED_READER, show: null };
  const pair = openPtyPair();
  releases.push(() => pair.close());
  // Its owner and group are this machine's, not the container's.
  chmodSync(pair.readerPath, 0o666);
  return { path: pair.readerPath, show: (code) => writeFileSync(pair.guestPath, `${code}\r\n`) };
}

/** Boots, plays the reader, and collects what is said inside, until DONE, the machine's end, or the time is up. */
async function collect(how: How, folder: string, tree: string, show: ((code: string) => void) | null, releases: Release[]): Promise<readonly Proof[]> {
  const proofs: Proof[] = [];
  let lastMs = performance.now();
  const done = Promise.withResolvers<void>();
  const line = (text: string) => {
    const shown = /^SHOW (\d+)/.exec(text);
    if (shown !== null) (show ?? machine.show)(CODES[Number(shown[1])] ?? '');
    const proof = /^PROOF ([^:]+): (ok|FAILED) ?(.*?)\r?$/.exec(text);
    if (proof !== null) {
      const nowMs = performance.now();
      proofs.push({ name: proof[1] ?? '', ok: proof[2] === 'ok', detail: proof[3] ?? '', tookMs: nowMs - lastMs });
      lastMs = nowMs;
    }
    if (proof !== null || text.startsWith('JOURNAL ')) log(text.trim());
    if (text.startsWith('DONE')) done.resolve();
  };
  const machine: Machine = how === 'emulated' ? bootEmulated(folder, tree, line) : { ...bootContainer(tree, line), show: () => undefined };
  releases.push(() => machine.stop());
  const timer = setTimeout(() => {
    proofs.push({ name: 'in time', ok: false, detail: `not done within ${BOUND_MS[how] / 60_000} minutes`, tookMs: BOUND_MS[how] });
    done.resolve();
  }, BOUND_MS[how]);
  await Promise.race([done.promise, machine.ended]);
  clearTimeout(timer);
  return proofs;
}

/** Reads the gate's rows from Postgres. */
async function rowsInPostgres(databaseUrl: string): Promise<Proof> {
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  try {
    const { rows } = await client.query<{ kind: string; count: string }>('SELECT kind, count(*) FROM ledger_rows GROUP BY kind ORDER BY kind');
    const count = (kind: string) => Number(rows.find((row) => row.kind === kind)?.count ?? 0);
    const ok = count('grant') === CODES.length && count('passage') >= CODES.length && count('refusal') >= 1;
    return { name: 'rows in Postgres', ok, detail: rows.map(({ kind, count: number }) => `${kind} ${number}`).join(', '), tookMs: 0 };
  } finally {
    await client.end();
  }
}

async function prove(how: How, folder: string, releases: Release[]): Promise<boolean> {
  const files = join(folder, 'files');
  mkdirSync(files);
  const venue = await openVenue(how === 'emulated' ? EMULATED_HOST : '127.0.0.1', folder, files, releases);
  const reader = openReader(how, releases);
  log('making the system');
  const tree = makeTree(how, folder, files, configuration(venue, reader.path));
  if (how === 'native') addCloud(tree, folder, venue.cloudEnvironment);
  log('booting');
  const proofs = [...(await collect(how, folder, tree, reader.show, releases)), await rowsInPostgres(venue.databaseUrl)];
  const width = Math.max(...proofs.map(({ name }) => name.length));
  for (const { name, ok, detail, tookMs } of proofs)
    process.stdout.write(`${ok ? 'ok    ' : 'FAILED'}  ${name.padEnd(width)}  ${(tookMs / 1000).toFixed(1).padStart(6)} s  ${detail}\n`);
  const failed = proofs.filter(({ ok }) => !ok).length;
  process.stdout.write(`${how}: ${proofs.length - failed} proven, ${failed} not\n`);
  return failed === 0 && proofs.some(({ name }) => name === 'removed');
}

async function main(args: readonly string[]): Promise<number> {
  const [how, ...options] = args;
  if ((how !== 'emulated' && how !== 'native') || options.some((option) => option !== '--keep')) {
    process.stderr.write('usage: node test/guest/prove.ts emulated|native [--keep]\n');
    return 2;
  }
  run('sh', ['test/guest/make-rootfs', ...(how === 'native' ? [process.arch] : ['arm64'])]);
  log('making the bundle');
  run(process.execPath, ['deploy/bundle.ts', how === 'native' ? process.arch : 'arm64']);
  if (how === 'native') run(process.execPath, ['deploy/bundle.ts', 'cloud']);
  const folder = mkdtempSync(existsSync('/var/tmp') ? '/var/tmp/stile-guest-' : '/tmp/stile-guest-');
  const releases: Release[] = [];
  const release = async () => {
    for (const one of releases.splice(0).toReversed()) await one();
  };
  // The machine and the servers end with us, however we end.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void release().finally(() => process.exit(1)));
  try {
    return (await prove(how, folder, releases)) ? 0 : 1;
  } finally {
    await release();
    if (options.includes('--keep')) log(`kept ${folder}`);
    else rmSync(folder, { recursive: true, force: true });
  }
}

process.exitCode = await main(process.argv.slice(2));
