/**
 * Checks every part for doctor: ok, warn or fail, with cause and hint. Asks the running gate about ports and lines, which it holds;
 * without one, checks what is visible from outside. Changes nothing; measures the disk with a file of its own.
 */

import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createClock } from '../clock/clock.ts';
import { formatConfigError } from '../config/fields.ts';
import { type Config, loadConfig } from '../config/load.ts';
import type { GateStatus } from '../control/protocol.ts';
import { type Check, fail, ok, warn } from './check-result.ts';
import { withGate } from './context.ts';
import { boardChecks, diskCheck, readerChecks, storageCheck } from './doctor-machine.ts';
import { brokerCheck, cloudChecks, networkHint, SET_CLOCK } from './doctor-network.ts';
import { socketCheck } from './doctor-socket.ts';
import { ledgerChecks } from './doctor-store.ts';
import { CliError, EXIT, print } from './exit-codes.ts';
import { age, ageOf, columns } from './format.ts';
import type { CommonOptions } from './options.ts';

/** Remaining life of a certificate, in ms, below which doctor warns. */
const RENEW_MS = 30 * 86_400_000;

export interface Examination {
  readonly result: 'ok' | 'warn' | 'fail';
  readonly checks: readonly Check[];
}

export async function doctor(options: CommonOptions): Promise<void> {
  const { result, checks, configOk } = await examine(options);
  print(options.json, { result, checks } satisfies Examination, () => examinationText({ result, checks }));
  if (result === 'fail') process.exitCode = configOk ? EXIT.failed : EXIT.badConfig;
}

export const examinationText = ({ result, checks }: Examination): string =>
  `${columns(checks.map(({ part, result: how, cause, hint }) => [how.padEnd(4), part, hint === '' ? cause : `${cause}; ${hint}`]))}\n${result === 'ok' ? 'all is well' : result === 'warn' ? 'it works, but see the warnings' : 'something must be fixed'}`;

/** Checks everything. Takes seconds when the network does not answer. */
export async function examine(options: CommonOptions): Promise<Examination & { readonly configOk: boolean }> {
  const loaded = loadConfig(options.config, process.env);
  const checks: Check[] = [];
  if (!loaded.ok) {
    for (const error of loaded.errors) checks.push(fail('config', formatConfigError({ ...error, hint: '' }).replace(/; $/, ''), error.hint));
  } else {
    checks.push(ok('config', `${loaded.config.files.join(', ')}: gate ${loaded.config.gate}`));
    for (const warning of loaded.warnings) checks.push(warn('config', `${warning.key}: ${warning.what}`, warning.hint));
  }
  const answer = await askGate(options);
  checks.push(answer.check);
  if (loaded.ok) checks.push(...(await partsOf(loaded.config, options, answer)));
  const worst = checks.some(({ result }) => result === 'fail') ? 'fail' : checks.some(({ result }) => result === 'warn') ? 'warn' : 'ok';
  return { result: worst, checks, configOk: loaded.ok };
}

interface Asked {
  readonly running: GateStatus | null;
  /** A gate runs, answering or not: doctor must not connect under its name. */
  readonly occupied: boolean;
  readonly check: Check;
}

async function askGate(options: CommonOptions): Promise<Asked> {
  try {
    const running = await withGate(options, (gate) => gate.call<GateStatus>('status'));
    return { running, occupied: true, check: ok('gate', `runs for ${age(running.uptime_s)}, version ${running.version}`) };
  } catch (error) {
    if (!(error instanceof CliError)) throw error;
    const occupied = error.exitCode !== EXIT.unreachable && error.exitCode !== EXIT.badConfig;
    return {
      running: null,
      occupied,
      check: occupied ? warn('gate', error.message, error.hint) : warn('gate', 'is not running', 'systemctl start stile-gate, or stile-gate run'),
    };
  }
}

async function partsOf(config: Config, options: CommonOptions, { running, occupied }: Asked): Promise<Check[]> {
  return [
    socketCheck(config, occupied),
    ...readerChecks(config, running),
    ...boardChecks(config, running),
    diskCheck(config),
    ...storageCheck(config),
    ...(await ledgerChecks(config, options, running, occupied)),
    ...manifestChecks(running),
    clockCheck(config, running),
    ...certificateChecks(config),
    await brokerCheck(config, running, occupied),
    ...(await cloudChecks(config, running)),
    ...(running?.alerts ?? []).map((alert) =>
      (alert.severity === 'info' ? ok : alert.severity === 'warning' ? warn : fail)(
        `alert ${alert.id}`,
        `${alert.message} (for ${ageOf(alert.since)})`,
        'see the part that it names',
      ),
    ),
  ];
}

/** Returns a hint: the cloud names the address, so a wrong one must be fixed there. */
const fetchHint = (problem: string): string =>
  `${networkHint(problem)}. The cloud names this address: STILE_PUBLIC_URL on the server must be how gates reach it`;

function manifestChecks(running: GateStatus | null): Check[] {
  if (running === null) return [];
  if (running.manifests.length === 0)
    return [
      running.fetch_problem === null
        ? fail('tickets', 'there are none: every code is refused', 'assign an event to this gate (stile-cloud assign), and see broker and cloud below')
        : fail('tickets', `there are none: every code is refused. ${running.fetch_problem}`, fetchHint(running.fetch_problem)),
    ];
  return running.manifests.map((one) => {
    const what = `${one.event_id}: ${one.tickets} tickets, version ${one.overlay_version}, made ${ageOf(one.generated_at)} ago`;
    return Date.parse(one.expires_at) < Date.parse(running.clock.wall)
      ? warn('tickets', `${what}, expired ${ageOf(one.expires_at)} ago`, 'see broker and cloud below: the gate fetches new ones by itself')
      : running.fetch_problem === null
        ? ok('tickets', what)
        : warn('tickets', `${what}. ${running.fetch_problem}`, fetchHint(running.fetch_problem));
  });
}

function clockCheck({ certificate, mqtt }: Config, running: GateStatus | null): Check {
  const own = createClock();
  const { trusted, why, wall } = running?.clock ?? { trusted: own.trusted(), why: own.why(), wall: new Date(own.wallMs()).toISOString() };
  // Uses the system's clock, which decides about certificates; the running gate shows no time below its floor.
  const systemMs = Date.now();
  const begins = [
    ['its own certificate', certificate?.notBeforeMs ?? null],
    ["the authority's certificate (mqtt.ca)", notBefore(mqtt?.ca ?? null)],
  ] as const;
  for (const [whose, beginsMs] of begins)
    if (beginsMs !== null && systemMs < beginsMs)
      return fail('clock', `shows ${new Date(systemMs).toISOString()}, when ${whose} was not yet valid (from ${new Date(beginsMs).toISOString()})`, SET_CLOCK);
  return trusted
    ? ok('clock', `${wall}: ${why}`)
    : warn('clock', `not trusted: ${why}`, "let a time server be reached (NTP, UDP port 123); with the broker online the gate also measures the cloud's time");
}

function notBefore(path: string | null): number | null {
  try {
    return path === null ? null : Date.parse(new X509Certificate(readFileSync(path)).validFrom);
  } catch {
    return null;
  }
}

function certificateChecks({ mqtt, certificate, gate }: Config): Check[] {
  if (mqtt === null || !mqtt.url.startsWith('mqtts:')) return [];
  if (certificate === null) return [warn('certificate', 'none is configured', 'stile-gate enroll gets it one, with a one-use token (stile-cloud enroll)')];
  const left = certificate.notAfterMs - Date.now();
  const until = new Date(certificate.notAfterMs).toISOString().slice(0, 10);
  if (left < 0) return [fail('certificate', `ended on ${until}`, 'enrol the gate again: stile-gate enroll')];
  return [
    left < RENEW_MS
      ? warn('certificate', `ends on ${until}`, 'enrol the gate again before that: stile-gate enroll')
      : ok('certificate', `of ${gate}, until ${until}`),
  ];
}
