/** What the proven gate talks to: a real database, broker (TLS, client certificates, ACL) and cloud, all on this machine's loopback. */
import { execFileSync, spawn } from 'node:child_process';
import { createWriteStream, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { stringify } from 'yaml';
import { freePort, startBroker } from '../../testkit/broker.ts';
import { startPostgres } from '../../testkit/postgres.ts';
import { prepareDatabase } from '../../testkit/prepare-database.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const GATE = 'arena/guest-01';
const EVENT = 'proof-night';
const CLOUD_READY_MS = 60_000;
/** Opaque codes of 128 bits, as a ticket shop would print them. */
export const CODES = ['Vq3mJk0TQyC2b7wEw2Xk1A', 'b8Zr1LrWQkSg0m4yqTn5eA', 'K2fHn6xUR7mYd9sPjvC3oQ', 'tW5cXe8LSHq1GzB7aMf0iw'];

export type Release = () => Promise<unknown> | unknown;

export interface ProofVenue {
  readonly databaseUrl: string;
  /** As the gate reaches them. */
  readonly brokerUrl: string;
  readonly cloudUrl: string;
  /** What the cloud was started with. */
  readonly cloudEnvironment: Readonly<Record<string, string>>;
}

export const run = (file: string, args: readonly string[], env: NodeJS.ProcessEnv = process.env) =>
  execFileSync(file, [...args], { cwd: root, env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });

/** `host`: this machine as the gate reaches it. One event and one gate; what the gate must be given is written into `files`. */
export async function openVenue(host: string, folder: string, files: string, releases: Release[]): Promise<ProofVenue> {
  const postgres = await startPostgres({ fsync: false });
  releases.push(() => postgres.stop());
  const { ownerUrl, servingUrl } = await prepareDatabase(postgres.url);
  const broker = await startBroker({ tls: true, hosts: ['localhost', '127.0.0.1', host], acl: [{ gate: GATE, revoked: false }] });
  releases.push(() => broker.stop());
  const { ca } = broker;
  if (ca === null) throw new Error('the broker has no certificates');
  const write = (path: string, text: string) => writeFileSync(path, text, { mode: 0o600 });
  write(join(folder, 'ca.pem'), ca.ca);
  write(join(folder, 'cloud.pem'), ca.cloud.cert);
  write(join(folder, 'cloud.key'), ca.cloud.key);
  const port = await freePort();
  const cloudEnvironment = {
    DATABASE_URL: servingUrl,
    STILE_MQTT_URL: broker.cloudUrl,
    STILE_MQTT_CA: join(folder, 'ca.pem'),
    STILE_MQTT_CERT: join(folder, 'cloud.pem'),
    STILE_MQTT_KEY: join(folder, 'cloud.key'),
    STILE_HTTP_PORT: String(port),
    STILE_PUBLIC_URL: `http://${host}:${port}`,
    STILE_SIGNING_KEY_FILE: join(folder, 'signing-key.pem'),
    STILE_HOST: 'cloud-1',
  };
  const env = { ...process.env, ...cloudEnvironment };
  const cloud = (...args: string[]) => run(join(root, 'cloud/stile-cloud'), args, env);
  run(join(root, 'cloud/stile-cloud'), ['migrate'], { ...env, STILE_MIGRATE_URL: ownerUrl });
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
  cloud('assign', GATE, EVENT, '--new', '--token-file', token, '--no-wait');
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
  return {
    databaseUrl: Object.assign(new URL(postgres.url), { pathname: '/stile' }).href,
    brokerUrl: `mqtts://${host}:${broker.port}`,
    cloudUrl: `http://${host}:${port}`,
    cloudEnvironment,
  };
}

/** The guest's gate.yaml: a software turnstile behind the lane, the reader's serial port, the longest pulse there is. */
export const configuration = (venue: ProofVenue, reader: string): string =>
  stringify({
    gate: GATE,
    readers: [{ name: 'in', path: reader, baud: 115_200, frame: 'crlf', direction: 'in' }],
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
