/** Runs `stile-cloud doctor`: looks at every part that this cloud needs, and says of each whether it is well, and if not, why and what to do. */
import { createHash, X509Certificate } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, statfsSync } from 'node:fs';
import https from 'node:https';
import { join } from 'node:path';
import { rootCertificates } from 'node:tls';
import { EnrollAuthority } from '../../contract/http.ts';
import type { CloudConfig } from '../config.ts';
import { connectOwner, createDatabase, type Database } from '../db/database.ts';
import { checkServing, refusedLogin } from '../db/logins.ts';
import { revocationList } from '../devices/certificates.ts';
import { aclFile } from '../mqtt/broker-acl.ts';
import { createBroker } from '../mqtt/client.ts';
import { CliError, configOf, EXIT, failureOf, type Terminal } from './context.ts';
import { createHost, type Host } from './init/host.ts';

/** Makes the list of revoked certificates anew and has the broker read it; systemd does so daily (systemd/stile-broker.service). */
const MAKE_REVOCATIONS = 'sudo systemctl start stile-broker.service; journalctl -u stile-broker says why it was not made';
const RENEW_SERVER = 'sudo stile-cloud pki renew-server --host NAME, then sudo stile-cloud init';
/** Wait for the broker and for the public address, in ms. */
const ANSWER_WAIT_MS = 10_000;
const MAX_ANSWER_BYTES = 64 * 1024;
const DAY_MS = 86_400_000;
/** A certificate is renewed by hand before: it is warned of, and near its end it is a failure. */
const CERTIFICATE_WARN_DAYS = 60;
const CERTIFICATE_FAIL_DAYS = 7;
/** Mosquitto lets no gate in once its list of revoked certificates has ended. */
const CRL_WARN_DAYS = 30;
/** Free space of a disk that the cloud writes to: below it PostgreSQL may stop at any moment. */
const DISK_FAIL_BYTES = 512 * 1024 * 1024;
const DISK_WARN_SHARE = 0.1;
/** The database's clock dates what the cloud writes; gates are told the cloud's. */
const CLOCK_WARN_MS = 2_000;

export interface Check {
  readonly part: string;
  readonly result: 'ok' | 'warn' | 'fail' | 'skip';
  readonly what: string;
  /** The remedy; null where none is needed. */
  readonly hint: string | null;
}

const ok = (part: string, what: string): Check => ({ part, result: 'ok', what, hint: null });
const skip = (part: string, what: string): Check => ({ part, result: 'skip', what, hint: null });
const warn = (part: string, what: string, hint: string): Check => ({ part, result: 'warn', what, hint });
const fail = (part: string, what: string, hint: string): Check => ({ part, result: 'fail', what, hint });

/** Prints every check. Throws CliError (1) where one failed. `host`: another machine in tests. */
export async function doctorCommand(terminal: Terminal, options: { readonly json?: boolean }, host: Host = createHost()): Promise<void> {
  const checks = await examine(terminal, host);
  if (options.json === true) terminal.out(`${JSON.stringify({ checks }, null, 2)}\n`);
  else
    for (const { part, result, what, hint } of checks)
      terminal.out(`${result.padEnd(4)}  ${part.padEnd(14)}${what}${hint === null ? '' : `\n${' '.repeat(20)}→ ${hint}`}\n`);
  const failed = checks.filter(({ result }) => result === 'fail').length;
  if (failed > 0) throw new CliError(EXIT.failed, `${failed === 1 ? '1 check failed' : `${failed} checks failed`}: see →`);
}

async function examine(terminal: Terminal, host: Host): Promise<readonly Check[]> {
  let config: CloudConfig;
  try {
    config = configOf(terminal, { mqtt: true });
  } catch (error) {
    return [fail('settings', (error as Error).message, 'correct /etc/stile/cloud.env; stile-cloud --help lists every setting')];
  }
  const checks: Check[] = [ok('settings', 'no errors'), ...(await databaseChecks(config))];
  const reachable = checks.every(({ part, result }) => part !== 'database' || result !== 'fail');
  checks.push(await brokerCheck(config));
  if (reachable) checks.push(await withDatabase(config, (database) => rightsCheck(database, host)));
  checks.push(
    revocationCheck(host),
    ...certificateChecks(config, host),
    await publicAddressCheck(config),
    clockCheck(host),
    ...diskChecks(host),
    serviceCheck(host),
    backupCheck(host),
  );
  return checks;
}

async function withDatabase<T>(config: CloudConfig, work: (database: Database) => Promise<T>): Promise<T> {
  const database = createDatabase({ url: config.databaseUrl, name: 'stile-cloud-doctor', maxConnections: 1 });
  try {
    return await work(database);
  } finally {
    await database.close();
  }
}

async function databaseChecks(config: CloudConfig): Promise<readonly Check[]> {
  const client = await connectOwner(config.databaseUrl).catch((error: unknown) => error as Error);
  if (client instanceof Error)
    return [
      fail(
        'database',
        (refusedLogin(client, config.databaseUrl, 'DATABASE_URL') ?? failureOf(client)).message,
        'systemctl status postgresql; see DATABASE_URL in /etc/stile/cloud.env',
      ),
    ];
  try {
    const { rows } = await client.query<{ version: string; at: Date }>("SELECT current_setting('server_version') AS version, clock_timestamp() AS at");
    const checks = [ok('database', `PostgreSQL ${rows[0]?.version ?? ''} answers`)];
    const roles = await checkServing(client).then(
      () => ok('roles', 'the login that serves owns nothing and bypasses nothing'),
      (error: Error) => fail('roles', error.message, 'run that SQL once as a superuser: sudo -u postgres psql stile'),
    );
    const apartMs = Math.abs((rows[0]?.at ?? new Date()).getTime() - Date.now());
    const clock =
      apartMs < CLOCK_WARN_MS
        ? []
        : [
            warn(
              'database clock',
              `its clock is ${Math.round(apartMs / 1000)} s from this machine's`,
              'have both follow a time server (chrony, systemd-timesyncd)',
            ),
          ];
    const migrated = await withDatabase(config, (database) => database.withoutTenant((one) => one.query('SELECT name FROM broker_devices() LIMIT 1'))).then(
      () => ok('schema', 'is of this version'),
      (error: unknown) => fail('schema', failureOf(error).message, 'sudo stile-cloud migrate'),
    );
    return [...checks, roles, ...clock, migrated];
  } finally {
    await client.close();
  }
}

async function brokerCheck(config: CloudConfig): Promise<Check> {
  if (config.mqtt === null) return skip('broker', 'none is set');
  let why = 'no answer';
  const broker = createBroker({ settings: config.mqtt, host: null, onConnection: (connected, reason) => void (connected || (why = reason)) });
  try {
    if (await broker.open(ANSWER_WAIT_MS)) return ok('broker', `${config.mqtt.url} lets this cloud in`);
    return fail(
      'broker',
      `${config.mqtt.url}: ${why}`,
      'systemctl status mosquitto; STILE_MQTT_CERT must be signed by the authority of its listener (share/mosquitto.conf)',
    );
  } catch (error) {
    return fail('broker', `${config.mqtt.url}: ${(error as Error).message}`, 'see STILE_MQTT_CA, STILE_MQTT_CERT and STILE_MQTT_KEY');
  } finally {
    await broker.close();
  }
}

/** Compares the ACL that Mosquitto reads with what enrolment says. */
async function rightsCheck(database: Database, host: Host): Promise<Check> {
  const file = '/etc/mosquitto/stile/acl';
  if (!host.exists(file)) return skip('broker rights', 'no broker of ours is on this machine');
  try {
    const { rows } = await database.withoutTenant((client) => client.query<{ name: string; revoked: boolean }>('SELECT name, revoked FROM broker_devices()'));
    const wanted = aclFile(rows.map(({ name, revoked }) => ({ gate: name, revoked })));
    if (host.read(file) === wanted) return ok('broker rights', `${rows.length} gates, as enrolled`);
    return fail(
      'broker rights',
      `${file} is not what enrolment says: a new gate may be kept out, or a revoked one let in`,
      'systemctl start stile-broker.service; journalctl -u stile-broker',
    );
  } catch (error) {
    return fail('broker rights', (error as Error).message, `sudo stile-cloud broker-acl --out ${file}`);
  }
}

function revocationCheck(host: Host): Check {
  const file = '/etc/mosquitto/stile/gates.crl';
  const text = host.read(file);
  if (text === null) return skip('revocations', 'no list of revoked certificates is on this machine');
  const list = revocationList(text);
  if (list === null) return fail('revocations', `${file} is no list of revoked certificates: Mosquitto lets no gate in`, MAKE_REVOCATIONS);
  const days = Math.floor((list.nextUpdate.getTime() - Date.now()) / DAY_MS);
  const until = list.nextUpdate.toISOString().slice(0, 10);
  if (days < 0) return fail('revocations', `the list ended on ${until}: Mosquitto lets no gate in`, MAKE_REVOCATIONS);
  if (days < CRL_WARN_DAYS) return warn('revocations', `the list ends on ${until}, in ${days} days; then no gate gets in`, MAKE_REVOCATIONS);
  return ok('revocations', `${list.count} certificates, until ${until}`);
}

function certificateChecks(config: CloudConfig, host: Host): readonly Check[] {
  const pki = host.at('/etc/stile/pki');
  const files = [config.ca?.cert, config.mqtt?.cert, host.at('/etc/ssl/stile/cloud.crt'), host.at('/etc/mosquitto/stile/broker.crt')];
  const kept = existsSync(pki)
    ? readdirSync(pki)
        .filter((name) => name.endsWith('.crt'))
        .map((name) => join(pki, name))
    : [];
  const seen = new Set<string>();
  const checks = [...files, ...kept].flatMap((file): Check[] => {
    if (file === undefined || file === null || !existsSync(file)) return [];
    const text = readFileSync(file, 'utf8');
    if (seen.has(text)) return [];
    seen.add(text);
    try {
      const certificate = new X509Certificate(text);
      const days = Math.floor((Date.parse(certificate.validTo) - Date.now()) / DAY_MS);
      const said = `${file} (${certificate.subject.replaceAll('\n', ', ')}) ${days < 0 ? 'has ended' : `ends in ${days} days`}`;
      const hint = RENEW_SERVER;
      return days < CERTIFICATE_FAIL_DAYS ? [fail('certificate', said, hint)] : days < CERTIFICATE_WARN_DAYS ? [warn('certificate', said, hint)] : [];
    } catch {
      return [fail('certificate', `${file} is no certificate in PEM`, 'put the right file there')];
    }
  });
  return checks.length > 0 ? checks : [ok('certificates', `${seen.size}, none ends within ${CERTIFICATE_WARN_DAYS} days`)];
}

/** Asks the public address for its authority: another cloud, or none, behind that name is found. */
async function publicAddressCheck(config: CloudConfig): Promise<Check> {
  const { publicUrl } = config.http;
  const part = 'public address';
  if (publicUrl === null)
    return warn(part, 'STILE_PUBLIC_URL is not set: gates fetch tickets from this machine alone', 'set it to the address by which gates reach this server');
  if (config.ca === null || !publicUrl.startsWith('https:'))
    return skip(part, `${publicUrl} is not asked: it is no https:// address, or this cloud enrols no gates`);
  const own = readFileSync(config.ca.cert, 'utf8');
  const proxy = 'the proxy must answer there and hand on to 127.0.0.1:8080 (systemctl status nginx stile-cloud)';
  try {
    const { status, text } = await get(`${publicUrl}/enroll/ca`, [...rootCertificates, own]);
    const answer = status === 200 ? EnrollAuthority.safeParse(JSON.parse(text)) : null;
    if (answer === null || !answer.success) return fail(part, `${publicUrl} answers with ${status}, and not as Stile's cloud does`, proxy);
    const digest = (pem: string) => createHash('sha256').update(new X509Certificate(pem).raw).digest('hex');
    return digest(answer.data.ca) === digest(own)
      ? ok(part, `${publicUrl} answers as this cloud`)
      : fail(part, `${publicUrl} is another cloud: its authority is another one`, 'correct STILE_PUBLIC_URL, or the name in DNS');
  } catch (error) {
    return fail(part, `${publicUrl}: ${(error as Error).message}`, proxy);
  }
}

function get(url: string, ca: readonly string[]): Promise<{ readonly status: number; readonly text: string }> {
  return new Promise((done, reject) => {
    const request = https.get(url, { ca: [...ca], agent: false, timeout: ANSWER_WAIT_MS }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (chunk: string) => {
        text += chunk;
        if (text.length > MAX_ANSWER_BYTES) response.destroy(new Error('its answer is too large'));
      });
      response.on('end', () => done({ status: response.statusCode ?? 0, text }));
      response.on('error', reject);
    });
    request.on('timeout', () => request.destroy(new Error(`no answer within ${ANSWER_WAIT_MS / 1000} s`)));
    request.on('error', reject);
  });
}

function clockCheck(host: Host): Check {
  if (!host.has('timedatectl')) return skip('time', 'this machine does not say whether its clock follows a time server');
  const said = host.run('timedatectl', ['show', '--property=NTPSynchronized', '--value']).out.trim();
  if (said === 'yes') return ok('time', 'follows a time server');
  return warn(
    'time',
    'the clock follows no time server: gates trust the time of this server',
    'apt-get install systemd-timesyncd, or chrony; timedatectl shows its state',
  );
}

function diskChecks(host: Host): readonly Check[] {
  const places = ['/var/lib/postgresql', '/var/lib/stile-cloud', '/var/lib/mosquitto', '/'].filter((place) => existsSync(host.at(place)));
  const seen = new Set<string>();
  return places.flatMap((place): Check[] => {
    const { bavail, blocks, bsize } = statfsSync(host.at(place));
    const key = `${blocks} ${bavail}`;
    if (seen.has(key)) return [];
    seen.add(key);
    const free = bavail * bsize;
    const said = `${place}: ${(free / 1024 ** 3).toFixed(1)} GiB free of ${((blocks * bsize) / 1024 ** 3).toFixed(1)}`;
    if (free < DISK_FAIL_BYTES) return [fail('disk', said, 'make room now: PostgreSQL stops when the disk is full (docs/INSTALL.md, old ledger months)')];
    return free < blocks * bsize * DISK_WARN_SHARE
      ? [warn('disk', said, 'make room: docs/INSTALL.md says how old ledger months are detached')]
      : [ok('disk', said)];
  });
}

function serviceCheck(host: Host): Check {
  if (!host.exists('/etc/systemd/system/stile-cloud.service') || !host.exists('/run/systemd/system')) return skip('service', 'is not run by systemd here');
  const state = host.run('systemctl', ['is-active', 'stile-cloud.service']).out.trim();
  return state === 'active'
    ? ok('service', 'stile-cloud runs')
    : fail('service', `stile-cloud is ${state}`, 'journalctl -u stile-cloud -n 50; systemctl restart stile-cloud');
}

/** The file in which `stile-cloud backup` and a restore drill say when they last succeeded. */
export const BACKUP_STATE = '/var/lib/stile-cloud/backup.json';

function backupCheck(host: Host): Check {
  const hint = 'sudo stile-cloud backup --to FOLDER, daily; docs/INSTALL.md, "Backups"';
  const text = host.read(BACKUP_STATE);
  if (text === null) return warn('backup', 'none was ever made: a dead disk loses every ticket and admission', hint);
  try {
    const { backup_at: at, restored_at: tested } = JSON.parse(text) as { backup_at?: string; restored_at?: string };
    const days = Math.floor((Date.now() - Date.parse(at ?? '')) / DAY_MS);
    if (!Number.isFinite(days)) return warn('backup', 'none was ever made: a dead disk loses every ticket and admission', hint);
    if (days >= 2) return warn('backup', `the last one is ${days} days old`, hint);
    return tested === undefined
      ? warn('backup', `the last one is of ${at?.slice(0, 16)}Z, and no restore was ever tested`, 'stile-cloud restore --test FILE')
      : ok('backup', `of ${at?.slice(0, 16)}Z, last tested restore ${tested.slice(0, 10)}`);
  } catch {
    return warn('backup', `${BACKUP_STATE} cannot be read`, hint);
  }
}
