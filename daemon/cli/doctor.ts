/**
 * doctor: every part, ok or warn or fail, with the cause and the mend. What the running gate knows is asked of it (the
 * port and the lines are its own); without one, as much as can be seen from outside. Changes nothing.
 */
import { accessSync, constants, existsSync, readFileSync, realpathSync, statfsSync, statSync } from 'node:fs';
import { connect } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { gpioOffer } from '../board/gpio-board.ts';
import { normaliseLines, powerOnLevel } from '../board/lines.ts';
import { createClock } from '../clock.ts';
import { type Config, loadConfig } from '../config.ts';
import { formatMistake } from '../config-fields.ts';
import type { GateStatus } from '../control-calls.ts';
import { connectGate } from './client.ts';
import { CliError, EXIT, print } from './exit.ts';
import type { CommonOptions } from './main.ts';
import { socketOf } from './settings.ts';
import { age, ageOf, columns } from './words.ts';

export interface Check {
  readonly part: string;
  readonly result: 'ok' | 'warn' | 'fail';
  readonly cause: string;
  /** Empty where all is well. */
  readonly mend: string;
}

/** How long the broker and the cloud are waited for. */
const NETWORK_WAIT_MS = 5_000;
const LOW_DISK_MB = 500;
const FULL_DISK_MB = 50;
/** A certificate that ends within so long wants to be renewed. */
const RENEW_MS = 30 * 86_400_000;

const ok = (part: string, cause: string): Check => ({ part, result: 'ok', cause, mend: '' });
const warn = (part: string, cause: string, mend: string): Check => ({ part, result: 'warn', cause, mend });
const fail = (part: string, cause: string, mend: string): Check => ({ part, result: 'fail', cause, mend });

export async function doctor(options: CommonOptions): Promise<void> {
  const loaded = loadConfig(options.config, process.env);
  const checks: Check[] = [];
  if (!loaded.ok) {
    for (const mistake of loaded.mistakes) checks.push(fail('config', formatMistake({ ...mistake, mend: '' }).replace(/; $/, ''), mistake.mend));
  } else {
    checks.push(ok('config', `${loaded.config.files.join(', ')}: gate ${loaded.config.gate}`));
    for (const warning of loaded.warnings) checks.push(warn('config', `${warning.key}: ${warning.what}`, warning.mend));
  }
  const running = await askGate(options);
  checks.push(
    running === null
      ? warn('gate', 'is not running', 'systemctl start stile-gate, or stile-gate run')
      : ok('gate', `runs for ${age(running.uptime_s)}, version ${running.version}`),
  );
  if (loaded.ok) checks.push(...(await partsOf(loaded.config, running)));
  const worst = checks.some(({ result }) => result === 'fail') ? 'fail' : checks.some(({ result }) => result === 'warn') ? 'warn' : 'ok';
  print(
    options.json,
    { result: worst, checks },
    () =>
      `${columns(checks.map(({ part, result, cause, mend }) => [result.padEnd(4), part, mend === '' ? cause : `${cause}; ${mend}`]))}\n${worst === 'ok' ? 'all is well' : worst === 'warn' ? 'it works, but see the warnings' : 'something must be mended'}`,
  );
  if (worst === 'fail') process.exitCode = loaded.ok ? EXIT.failed : EXIT.badConfig;
}

async function askGate(options: CommonOptions): Promise<GateStatus | null> {
  try {
    const gate = await connectGate(socketOf(options));
    try {
      return await gate.call<GateStatus>('status');
    } finally {
      gate.close();
    }
  } catch (error) {
    if (error instanceof CliError) return null;
    throw error;
  }
}

async function partsOf(config: Config, running: GateStatus | null): Promise<Check[]> {
  return [
    ...config.readers.map((reader) => readerCheck(reader, running)),
    ...boardChecks(config, running),
    diskCheck(config),
    ...manifestChecks(running),
    clockCheck(config, running),
    ...certificateChecks(config),
    await brokerCheck(config, running),
    await cloudCheck(config),
    ...(running?.alerts ?? []).map((alert) =>
      (alert.severity === 'info' ? ok : alert.severity === 'warning' ? warn : fail)(
        `alert ${alert.id}`,
        `${alert.message} (for ${ageOf(alert.since)})`,
        'see the part that it names',
      ),
    ),
  ];
}

function readerCheck({ name, path }: Config['readers'][number], running: GateStatus | null): Check {
  const part = `reader ${name}`;
  const known = running?.readers.find((reader) => reader.name === name);
  if (known?.ok === true) return ok(part, `open on ${path}`);
  if (!existsSync(path))
    return fail(
      part,
      `${path} is not there`,
      'plug the reader in; if it is, it may be in keyboard mode: set it to USB serial (CDC-ACM) with the code from its manual, or name its port in readers',
    );
  try {
    accessSync(path, constants.R_OK | constants.W_OK);
  } catch {
    return fail(part, `${path} may not be used by this user`, "join the group dialout, or run this as the gate's user: sudo -u stile-gate stile-gate doctor");
  }
  if (!statSync(path).isCharacterDevice()) return fail(part, `${path} is no serial port`, "name the reader's port, such as /dev/serial/by-id/…");
  if (known !== undefined)
    return fail(part, `the gate cannot open ${path}`, "end what else uses it (ModemManager, a terminal program), and see the gate's journal");
  return ok(part, `${path}${realpathSync(path) === path ? '' : ` (${realpathSync(path)})`} is there; the gate is not running, so it was not tried`);
}

function boardChecks(config: Config, running: GateStatus | null): Check[] {
  const checks: Check[] = [];
  const offer = gpioOffer();
  if (config.board.driver === 'sim')
    checks.push(
      running === null || running.board.ok
        ? warn('board', 'is a software turnstile: no real lane moves', 'set board.driver to gpio on a gate')
        : fail('board', 'the software turnstile reports a fault', 'clear what was planted on its socket'),
    );
  else if (running !== null)
    checks.push(
      running.board.ok
        ? ok('board', `every line is held by the gate: ${running.board.by}`)
        : fail('board', 'a line could not be driven or read', 'see the alert board in stile-gate status, and the wiring'),
    );
  else if (offer === null)
    checks.push(
      fail('board', 'this machine offers no GPIO, neither by /sys/class/gpio nor by /dev/gpiochip*', 'use a Raspberry Pi, or set board.driver to sim'),
    );
  else checks.push(ok('board', `GPIO is there (${offer}); the gate is not running, so no line was tried`));
  if (config.board.driver !== 'gpio') return checks;
  for (const { name, line, safe } of normaliseLines(config.board).outputs) {
    if (name.startsWith('release') && powerOnLevel(line) !== safe)
      checks.push(
        warn(
          'board',
          `line ${line} (${name}) is ${powerOnLevel(line)} from power-on until the gate runs, and its safe level is ${safe}: the lane may open while booting`,
          'stile-gate config --boot-lines >> /boot/firmware/config.txt (the installer does it), or use a line above 8',
        ),
      );
  }
  return checks;
}

function diskCheck({ store }: Config): Check {
  try {
    accessSync(store.path, constants.R_OK | constants.W_OK | constants.X_OK);
    const { bavail, bsize } = statfsSync(store.path);
    const freeMb = Math.floor((bavail * bsize) / 1_048_576);
    if (freeMb < FULL_DISK_MB) return fail('disk', `${freeMb} MB free in ${store.path}: admissions will soon not be recorded, and then not given`, 'make room');
    return freeMb < LOW_DISK_MB ? warn('disk', `${freeMb} MB free in ${store.path}`, 'make room') : ok('disk', `${freeMb} MB free in ${store.path}`);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    return code === 'ENOENT'
      ? warn('disk', `${store.path} is not there yet`, 'the gate makes it at its first start, if it may')
      : fail('disk', `${store.path} may not be written (${code})`, `chown it to the gate's user, or run this as that user`);
  }
}

function manifestChecks(running: GateStatus | null): Check[] {
  if (running === null) return [];
  if (running.manifests.length === 0)
    return [fail('tickets', 'there are none: every code is refused', 'assign an event to this gate (stile-cloud assign), and see broker and cloud below')];
  return running.manifests.map((one) => {
    const what = `${one.event_id}: ${one.tickets} tickets, version ${one.overlay_version}`;
    return Date.parse(one.expires_at) < Date.parse(running.clock.wall)
      ? warn('tickets', `${what}, expired ${ageOf(one.expires_at)} ago`, 'see broker and cloud below: the gate fetches new ones by itself')
      : ok('tickets', what);
  });
}

function clockCheck({ certificate }: Config, running: GateStatus | null): Check {
  const own = createClock();
  const { trusted, why, wall } = running?.clock ?? { trusted: own.trusted(), why: own.why(), wall: new Date(own.wallMs()).toISOString() };
  if (certificate !== null && Date.parse(wall) < certificate.notBeforeMs)
    return fail(
      'clock',
      `shows ${wall}, before the gate's own certificate was made`,
      'let a time server be reached (NTP, UDP port 123), or set the time: timedatectl set-time',
    );
  return trusted
    ? ok('clock', why)
    : warn('clock', `not trusted: ${why}`, "let a time server be reached (NTP, UDP port 123); with the broker online the gate also measures the cloud's time");
}

function certificateChecks({ mqtt, certificate, gate }: Config): Check[] {
  if (mqtt === null || !mqtt.url.startsWith('mqtts:')) return [];
  if (certificate === null) return [warn('certificate', 'none is configured', 'enrol the gate, then give mqtt.cert and mqtt.key')];
  const left = certificate.notAfterMs - Date.now();
  const until = new Date(certificate.notAfterMs).toISOString().slice(0, 10);
  if (left < 0) return [fail('certificate', `ended on ${until}`, 'enrol the gate again')];
  return [left < RENEW_MS ? warn('certificate', `ends on ${until}`, 'enrol the gate again before that') : ok('certificate', `of ${gate}, until ${until}`)];
}

async function brokerCheck({ mqtt }: Config, running: GateStatus | null): Promise<Check> {
  if (mqtt === null) return warn('broker', 'none is configured: rows stay on this gate', 'give mqtt.url');
  if (running?.uplink.online === true) return ok('broker', `online at ${mqtt.url}`);
  const url = new URL(mqtt.url);
  const port = Number(url.port === '' ? (url.protocol === 'mqtts:' ? 8883 : 1883) : url.port);
  const host = url.hostname.replace(/^\[|\]$/g, '');
  const cause = await reach(host, port, url.protocol === 'mqtts:' ? mqtt : null);
  if (cause !== null)
    return fail('broker', `${mqtt.url} is not reached: ${cause}`, 'check network, address and firewall; admissions go on, and rows wait on this gate');
  return running === null
    ? ok('broker', `${mqtt.url} answers`)
    : fail('broker', `${mqtt.url} answers, but the gate is not let in`, "see the gate's journal: certificate, user name or ACL");
}

/** null: reached; else why not. */
function reach(host: string, port: number, tls: Config['mqtt']): Promise<string | null> {
  return new Promise((resolve) => {
    const file = (path: string | null) => (path === null ? undefined : readFileSync(path));
    const socket =
      tls === null ? connect({ host, port }) : connectTls({ host, port, servername: host, ca: file(tls.ca), cert: file(tls.cert), key: file(tls.key) });
    const done = (cause: string | null) => {
      socket.destroy();
      resolve(cause);
    };
    socket.setTimeout(NETWORK_WAIT_MS, () => done(`no answer within ${NETWORK_WAIT_MS / 1000} s`));
    socket.once(tls === null ? 'connect' : 'secureConnect', () => done(null));
    socket.on('error', (error) => done(error.message));
  });
}

async function cloudCheck({ cloud }: Config): Promise<Check> {
  if (cloud === null) return warn('cloud', 'none is configured: no tickets can be fetched', 'give cloud.url');
  try {
    const answer = await fetch(new URL('/healthz', cloud.url), { signal: AbortSignal.timeout(NETWORK_WAIT_MS), redirect: 'error' });
    return answer.ok ? ok('cloud', `${cloud.url} answers`) : fail('cloud', `${cloud.url} answers with ${answer.status}`, "see the cloud's own log");
  } catch (error) {
    const cause = (error as { cause?: Error }).cause?.message ?? (error as Error).message;
    return fail('cloud', `${cloud.url} is not reached: ${cause}`, 'check network, address and firewall; known tickets are admitted all the same');
  }
}
