/**
 * Proves the installer and the units without a Pi: a Debian arm64 system in QEMU, from empty to the first admission, and every
 * way in which a gate can end. Database, broker (TLS, client certificates, ACL) and cloud are real and run on this machine.
 *
 *   node test/guest/prove.ts [--keep]      make prove-install
 *
 * Needs root, qemu-system-aarch64, what test/guest/make-rootfs needs, and a cross compiler for the bundle. Takes about 5 minutes.
 * Exit codes: 0 all proven, 1 not all, 2 usage.
 */
import { execFileSync, spawn } from 'node:child_process';
import { copyFileSync, createWriteStream, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { stringify } from 'yaml';
import { startPostgres } from '../../deploy/database/embedded.ts';
import { freePort, startBroker } from '../broker.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const GATE = 'arena/guest-01';
const EVENT = 'proof-night';
/** The guest reaches this machine's loopback under this address. */
const HOST = '10.0.2.2';
/** From the start of QEMU to DONE. */
const BOUND_MS = 15 * 60_000;
const CLOUD_READY_MS = 60_000;
const IMAGE_MB = 2_048;
/** Opaque codes of 128 bits, as a ticket shop would print them. */
const CODES = ['Vq3mJk0TQyC2b7wEw2Xk1A', 'b8Zr1LrWQkSg0m4yqTn5eA', 'K2fHn6xUR7mYd9sPjvC3oQ', 'tW5cXe8LSHq1GzB7aMf0iw'];

interface Proof {
  readonly name: string;
  readonly ok: boolean;
  readonly detail: string;
  readonly atMs: number;
}
type Release = () => Promise<unknown> | unknown;

const log = (words: string) => process.stderr.write(`prove: ${words}\n`);
const run = (file: string, args: readonly string[], env: NodeJS.ProcessEnv = process.env) =>
  execFileSync(file, [...args], { cwd: root, env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });

/** Database, broker and cloud, with one event and one gate; what the gate must be given lies in `files`. */
async function openVenue(folder: string, files: string, releases: Release[]) {
  const postgres = await startPostgres({ fsync: false });
  releases.push(() => postgres.stop());
  const broker = await startBroker({ tls: true, hosts: ['localhost', '127.0.0.1', HOST], acl: [{ gate: GATE, revoked: false }] });
  releases.push(() => broker.stop());
  const { ca } = broker;
  if (ca === null) throw new Error('the broker has no certificates');
  const write = (path: string, text: string) => writeFileSync(path, text, { mode: 0o600 });
  write(join(folder, 'ca.pem'), ca.ca);
  write(join(folder, 'cloud.pem'), ca.cloud.cert);
  write(join(folder, 'cloud.key'), ca.cloud.key);
  const port = await freePort();
  const env = {
    ...process.env,
    DATABASE_URL: postgres.url,
    STILE_MQTT_URL: broker.cloudUrl,
    STILE_MQTT_CA: join(folder, 'ca.pem'),
    STILE_MQTT_CERT: join(folder, 'cloud.pem'),
    STILE_MQTT_KEY: join(folder, 'cloud.key'),
    STILE_HTTP_PORT: String(port),
    STILE_PUBLIC_URL: `http://${HOST}:${port}`,
    STILE_SIGNING_KEY_FILE: join(folder, 'signing-key.pem'),
    STILE_HOST: 'cloud-1',
  };
  const cloud = (...args: string[]) => run(join(root, 'cloud/stile-cloud'), args, env);
  cloud('migrate');
  const hour = 3_600_000;
  cloud(
    'event',
    'put',
    EVENT,
    '--site',
    'arena',
    '--name',
    'Proof night',
    '--no-wait',
    '--starts',
    new Date(Date.now() - hour).toISOString(),
    '--ends',
    new Date(Date.now() + 12 * hour).toISOString(),
  );
  writeFileSync(join(folder, 'tickets.csv'), `ticket_id,code\n${CODES.map((code, number) => `T-${number},${code}\n`).join('')}`);
  cloud('import', EVENT, join(folder, 'tickets.csv'), '--no-wait');
  const token = join(files, 'cloud-token');
  cloud('assign', GATE, EVENT, '--token-file', token, '--no-wait');
  write(join(files, 'keys.json'), cloud('keys'));
  const identity = await ca.issue(GATE);
  write(join(files, 'ca.pem'), ca.ca);
  write(join(files, 'gate.pem'), identity.cert);
  write(join(files, 'gate.key'), identity.key);

  const output = createWriteStream(join(folder, 'cloud.log'));
  const child = spawn(join(root, 'cloud/stile-cloud'), ['all'], { env, stdio: ['ignore', 'pipe', 'pipe'] });
  child.stdout.pipe(output);
  child.stderr.pipe(output);
  releases.push(async () => {
    const ended = new Promise((resolve) => child.once('exit', resolve));
    if (child.exitCode === null && child.kill('SIGTERM')) await ended;
  });
  const deadline = Date.now() + CLOUD_READY_MS;
  while (
    !(await fetch(`http://127.0.0.1:${port}/readyz`).then(
      (answer) => answer.ok,
      () => false,
    ))
  ) {
    if (child.exitCode !== null || Date.now() > deadline)
      throw new Error(`the cloud did not start:\n${readFileSync(join(folder, 'cloud.log'), 'utf8').slice(-2_000)}`);
    await sleep(100);
  }
  return { databaseUrl: postgres.url, brokerUrl: `mqtts://${HOST}:${broker.port}`, cloudUrl: `http://${HOST}:${port}` };
}

/** The guest's gate.yaml: a software turnstile behind the lane, a serial port for the reader, the longest pulse there is. */
const configuration = (venue: { readonly brokerUrl: string; readonly cloudUrl: string }) =>
  stringify({
    gate: GATE,
    readers: [{ name: 'in', path: '/dev/ttyS0', baud: 115_200, frame: 'crlf', direction: 'in' }],
    turnstile: { release: 'pulse', pulse_ms: 5_000, sensor: 'per_direction' },
    board: {
      driver: 'sim',
      outputs: { release_in: 17, green_in: 22, red_in: 23, amber_in: 24, buzzer: 25 },
      inputs: { passage_in: 20, button: 13, fire: 19 },
      sim_socket: '/run/stile/sim.sock',
    },
    mqtt: { url: venue.brokerUrl, ca: '/etc/stile/ca.pem', cert: '/etc/stile/gate.pem', key: '/etc/stile/gate.key' },
    cloud: { url: venue.cloudUrl, token_file: '/etc/stile/cloud-token', keys: '/etc/stile/keys.json' },
    store: { path: '/var/lib/stile' },
  });

/** The Debian system with the bundle in it, as a disk image. Answers image, kernel and initrd. */
function makeDisk(folder: string, files: string, config: string): { readonly image: string; readonly kernel: string; readonly initrd: string } {
  const tree = join(folder, 'tree');
  mkdirSync(tree);
  run('tar', [
    '-C',
    tree,
    '-xf',
    join(root, '.tools/guest/rootfs.tar'),
    '--exclude=./dev/*',
    '--exclude=./usr/share/doc/*',
    '--exclude=./usr/share/locale/*',
    '--exclude=./var/cache/apt/*',
    '--exclude=./var/lib/apt/lists/*',
  ]);
  const boot = readdirSync(join(tree, 'boot'));
  const take = (prefix: string) => {
    const name = boot.find((file) => file.startsWith(prefix));
    if (name === undefined) throw new Error(`the root file system has no ${prefix}*: remove .tools/guest/rootfs.tar and try again`);
    copyFileSync(join(tree, 'boot', name), join(folder, prefix));
    return join(folder, prefix);
  };
  const [kernel, initrd] = [take('vmlinuz'), take('initrd')];
  rmSync(join(tree, 'boot'), { recursive: true });
  mkdirSync(join(tree, 'root/bundle'));
  run('tar', ['-C', join(tree, 'root/bundle'), '--strip-components=1', '-xzf', join(root, 'dist/gate-arm64.tar.gz')]);
  run('cp', ['-R', files, join(tree, 'root/files')]);
  writeFileSync(join(tree, 'root/gate.yaml'), config, { mode: 0o600 });
  copyFileSync(join(root, 'test/guest/inside.ts'), join(tree, 'root/inside.ts'));
  writeFileSync(join(tree, 'etc/systemd/network/10-guest.network'), '[Match]\nName=e*\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n');
  writeFileSync(
    join(tree, 'etc/systemd/system/prove.service'),
    '[Unit]\nAfter=multi-user.target\n[Service]\nType=exec\nEnvironment=LD_LIBRARY_PATH=/root/bundle/lib/native\nExecStart=/root/bundle/bin/node /root/inside.ts\nStandardOutput=journal+console\nStandardError=journal+console\n',
  );
  for (const unit of ['prove.service', '/lib/systemd/system/systemd-networkd.service']) {
    const name = unit.slice(unit.lastIndexOf('/') + 1);
    mkdirSync(join(tree, 'etc/systemd/system/multi-user.target.wants'), { recursive: true });
    symlinkSync(unit.startsWith('/') ? unit : `../${unit}`, join(tree, 'etc/systemd/system/multi-user.target.wants', name));
  }
  writeFileSync(join(tree, 'etc/fstab'), '/dev/vda / ext4 defaults 0 0\n');
  writeFileSync(join(tree, 'etc/hostname'), 'guest\n');
  const image = join(folder, 'disk.img');
  run('mke2fs', ['-q', '-t', 'ext4', '-d', tree, image, `${IMAGE_MB}M`]);
  rmSync(tree, { recursive: true });
  return { image, kernel, initrd };
}

/** Boots, plays the reader, and collects what the guest says, until DONE, the end of QEMU, or the time is up. */
async function boot(folder: string, disk: ReturnType<typeof makeDisk>, releases: Release[]): Promise<readonly Proof[]> {
  const readerPath = join(folder, 'reader.sock');
  const from = performance.now();
  const guest = spawn(
    'qemu-system-aarch64',
    [
      ...['-M', 'virt', '-cpu', 'cortex-a72', '-smp', '2', '-m', '1024', '-nographic', '-no-reboot', '-monitor', 'none'],
      ...['-kernel', disk.kernel, '-initrd', disk.initrd, '-append', 'root=/dev/vda rw console=ttyAMA0 loglevel=4 systemd.show_status=false panic=-1'],
      ...[
        '-drive',
        `file=${disk.image},format=raw,if=virtio,cache=unsafe`,
        '-netdev',
        'user,id=net',
        '-device',
        'virtio-net-pci,netdev=net',
        '-device',
        'virtio-rng-pci',
      ],
      ...['-chardev', `socket,id=reader,path=${readerPath},server=on,wait=off`, '-device', 'pci-serial,chardev=reader', '-serial', 'stdio'],
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  releases.push(() => guest.kill('SIGKILL'));
  const console = createWriteStream(join(folder, 'console.log'));
  guest.stdout.pipe(console);
  const proofs: Proof[] = [];
  let lastMs = from;
  let reader: ReturnType<typeof connect> | null = null;
  await new Promise<void>((resolve) => {
    const timer = setTimeout(() => {
      proofs.push({ name: 'in time', ok: false, detail: `the guest was not done within ${BOUND_MS / 60_000} minutes`, atMs: BOUND_MS });
      resolve();
    }, BOUND_MS);
    const end = () => {
      clearTimeout(timer);
      resolve();
    };
    guest.once('exit', end);
    createInterface({ input: guest.stdout }).on('line', (line) => {
      const shown = /^SHOW (\d+)/.exec(line);
      if (shown !== null) {
        reader ??= connect(readerPath).on('error', (error) => log(`reader: ${error.message}`));
        reader.write(`${CODES[Number(shown[1])]}\r\n`);
      }
      const proof = /^PROOF ([^:]+(?:: [^:]+?)?): (ok|FAILED) ?(.*?)\r?$/.exec(line);
      if (proof !== null) {
        const nowMs = performance.now();
        proofs.push({ name: proof[1] ?? '', ok: proof[2] === 'ok', detail: proof[3] ?? '', atMs: nowMs - lastMs });
        lastMs = nowMs;
        log(line.trim());
      } else if (line.startsWith('JOURNAL ')) log(line.trim());
      if (/^DONE/.test(line)) end();
    });
  });
  (reader as ReturnType<typeof connect> | null)?.destroy();
  return proofs;
}

/** What Postgres holds of the gate's doings. */
async function rowsInPostgres(databaseUrl: string): Promise<Proof> {
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  try {
    const { rows } = await client.query<{ kind: string; count: string }>('SELECT kind, count(*) FROM ledger_rows GROUP BY kind ORDER BY kind');
    const count = (kind: string) => Number(rows.find((row) => row.kind === kind)?.count ?? 0);
    const ok = count('grant') === CODES.length && count('passage') >= CODES.length && count('refusal') >= 1;
    return { name: 'rows in Postgres', ok, detail: rows.map(({ kind, count: number }) => `${kind} ${number}`).join(', '), atMs: 0 };
  } finally {
    await client.end();
  }
}

async function main(args: readonly string[]): Promise<number> {
  if (args.some((arg) => arg !== '--keep')) {
    process.stderr.write('usage: node test/guest/prove.ts [--keep]\n');
    return 2;
  }
  run('sh', ['test/guest/make-rootfs']);
  log('making the bundle');
  run(process.execPath, ['deploy/bundle.ts', 'arm64']);
  const folder = mkdtempSync('/var/tmp/stile-guest-');
  const files = join(folder, 'files');
  mkdirSync(files);
  const releases: Release[] = [];
  // The guest and the servers end with us, however we end.
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.once(signal, () => void Promise.allSettled(releases.toReversed().map((release) => release())).then(() => process.exit(1)));
  try {
    const venue = await openVenue(folder, files, releases);
    log('making the disk');
    const disk = makeDisk(folder, files, configuration(venue));
    log('booting');
    const proofs = [...(await boot(folder, disk, releases)), await rowsInPostgres(venue.databaseUrl)];
    const width = Math.max(...proofs.map(({ name }) => name.length));
    for (const { name, ok, detail, atMs } of proofs)
      process.stdout.write(`${ok ? 'ok    ' : 'FAILED'}  ${name.padEnd(width)}  ${(atMs / 1000).toFixed(1).padStart(6)} s  ${detail}\n`);
    const failed = proofs.filter(({ ok }) => !ok).length;
    process.stdout.write(`${proofs.length - failed} proven, ${failed} not\n`);
    return failed === 0 && proofs.some(({ name }) => name === 'removed') ? 0 : 1;
  } finally {
    for (const release of releases.toReversed()) await release();
    if (args.includes('--keep')) log(`kept ${folder}`);
    else rmSync(folder, { recursive: true, force: true });
  }
}

process.exitCode = await main(process.argv.slice(2));
