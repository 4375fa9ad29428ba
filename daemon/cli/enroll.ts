/**
 * Enrols this gate: exchanges a one-use token for a certificate. Creates the key here; it never leaves the machine. Checks everything
 * before it uses the token, and replaces the old files only when all new ones are written.
 */
import { spawnSync } from 'node:child_process';
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { PublicKey } from '../../contract/manifest.ts';
import { decodeEnrolment } from '../../rules/enrolment-code.ts';
import { readPublicKey } from '../../rules/keys.ts';
import { writeSafeFile } from '../../runtime/safe-file.ts';
import type { ConfigError } from '../config/fields.ts';
import { formatConfigErrors, loadConfig } from '../config/load.ts';
import { parseYaml } from '../config/sources.ts';
import { groupId } from '../platform/groups.ts';
import { GROUP, place, prepare } from './enroll-files.ts';
import { type Answer, buy, fetchAuthority, type Wanted } from './enroll-request.ts';
import { CliError, EXIT, print } from './exit-codes.ts';
import type { CommonOptions } from './options.ts';

/** Files in which an SD card's first start finds its enrolment. */
export const BOOT_FILES = ['/boot/firmware/stile-enroll.yaml', '/boot/stile-enroll.yaml'];
const UNIT = '/etc/systemd/system/stile-gate.service';
/** As the cloud makes enrolment tokens; a code carries the bytes behind it. */
const TOKEN_PREFIX = 'stile-enrol-';
const LOOPBACK = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/;

export interface EnrollOptions extends CommonOptions {
  /** STILE1:…, of the console or `stile-cloud gate add`. */
  readonly code?: string | undefined;
  /** A configuration to put into place first: this gate's wiring. */
  readonly wiring?: string;
  readonly start?: boolean;
  readonly token?: string;
  readonly cloud?: string;
  readonly broker?: string;
  readonly ca?: string;
  readonly file?: string;
  readonly force?: boolean;
}

export async function enroll(options: EnrollOptions): Promise<void> {
  const folder = dirname(resolve(options.config));
  if (options.wiring !== undefined) await putWiring(options.wiring, options.config);
  const gathered = gather(options);
  prepare(folder, options.force === true);
  const { newSigningRequest } = await import('./csr.ts');
  const { key, csr } = await newSigningRequest(gathered.gate ?? 'stile-gate');
  const wanted = gathered.fingerprint === null ? gathered : { ...gathered, ca: await fetchAuthority(gathered.cloud, gathered.fingerprint) };
  const answer = await buy(wanted, csr);
  const problem = checkAnswer(answer, key, wanted.gate);
  if (problem !== null) throw new CliError(EXIT.failed, problem.what, `nothing was changed here; ${problem.hint}`);
  const broker = wanted.broker ?? answer.broker;
  if (broker === undefined)
    throw new CliError(
      EXIT.failed,
      'the cloud does not say where its broker is',
      'its STILE_GATE_BROKER_URL names it; or give --broker with a new code: this one is used',
    );
  const files = place(folder, { ...wanted, broker }, answer, key);
  const loaded = loadConfig(options.config, process.env);
  const { gate, assignment } = answer;
  const certificate = new X509Certificate(answer.certificate);
  const until = new Date(certificate.validTo).toISOString();
  const started = loaded.ok ? startService(options.start ?? true) : '';
  print(options.json, { gate, files, not_after: until, event_ids: assignment.event_ids, config_ok: loaded.ok }, () =>
    [
      `this is ${gate} now, with a certificate until ${until.slice(0, 10)}`,
      ...files.map((file) => `  ${file}`),
      assignment.event_ids.length === 0 ? 'it is assigned to no event yet: stile-cloud assign' : `it is assigned to ${assignment.event_ids.join(', ')}`,
      ...(wanted.from === null ? [] : [`${wanted.from} is no longer needed: its token is used, and the file may be deleted`]),
      loaded.ok ? started : `next, fix the configuration:\n${formatConfigErrors(loaded.errors).trimEnd()}`,
    ].join('\n'),
  );
}

function gather(options: EnrollOptions): Wanted {
  const from = options.file ?? (options.token === undefined ? (BOOT_FILES.find((path) => existsSync(path)) ?? null) : null);
  const given = from === null ? {} : readFile(from);
  const loaded = loadConfig(options.config, process.env, { skipFiles: true });
  const config = loaded.ok ? loaded.config : null;
  if (options.code !== undefined) return fromCode(options, options.code, config?.gate ?? null);
  const need = (value: string | undefined, what: string, how: string): string => {
    if (value === undefined || value === '')
      throw new CliError(EXIT.usage, `${what} is missing`, `give ${how}, or ${BOOT_FILES[0]} with cloud, broker and token`);
    return value;
  };
  const token = need(options.token ?? given.token, 'the token', '--token (stile-cloud enroll makes one)');
  const cloud = need(options.cloud ?? given.cloud ?? config?.cloud?.url, "the cloud's address", '--cloud https://…');
  const broker = need(options.broker ?? given.broker ?? config?.mqtt?.url, "the broker's address", '--broker mqtts://…');
  for (const [what, url, secure, plain] of [
    ['the cloud', cloud, 'https:', 'http:'],
    ['the broker', broker, 'mqtts:', 'mqtt:'],
  ] as const) {
    const parsed = URL.canParse(url) ? new URL(url) : null;
    if (parsed === null || (parsed.protocol !== secure && !(parsed.protocol === plain && LOOPBACK.test(parsed.hostname))))
      throw new CliError(
        EXIT.usage,
        `${url} is no address for ${what}`,
        `give one that begins with ${secure}// (the token would be seen on its way otherwise)`,
      );
  }
  const caFile = options.ca ?? (given.ca === undefined ? undefined : resolve(dirname(from as string), given.ca)) ?? config?.cloud?.ca ?? null;
  const gateNamed = loaded.ok ? loaded.config.gate : null;
  return { token, cloud, broker, ca: caFile === null ? null : readCa(caFile), fingerprint: null, gate: gateNamed, from };
}

/** Reads a code of `stile-cloud gate add`. Options beside it win. */
function fromCode(options: EnrollOptions, text: string, gate: string | null): Wanted {
  if (options.token !== undefined || options.cloud !== undefined || options.file !== undefined)
    throw new CliError(EXIT.usage, 'the code holds address and token', 'leave out --token, --cloud and --file');
  const decoded = decodeEnrolment(text);
  if (!decoded.ok)
    throw new CliError(EXIT.usage, `this is no enrolment code: ${decoded.cause}`, 'copy it whole, in quotes, from stile-cloud gate add or its QR');
  const { cloud, token, fingerprint } = decoded.code;
  return {
    token: `${TOKEN_PREFIX}${Buffer.from(token).toString('base64url')}`,
    cloud,
    broker: options.broker ?? null,
    ca: null,
    fingerprint,
    gate,
    from: null,
  };
}

/** Puts a configuration in place after checking it. Throws CliError (78) with every error, and changes nothing then. */
async function putWiring(from: string, to: string): Promise<void> {
  const loaded = loadConfig(from, process.env, { skipFiles: true });
  // What enrolment will add may be missing still.
  const errors = loaded.ok ? [] : loaded.errors.filter(({ key }) => !/^(gate|mqtt|cloud)\b/.test(key));
  if (errors.length > 0)
    throw new CliError(EXIT.badConfig, `${from} has errors:\n${formatConfigErrors(errors).trimEnd()}`, 'nothing was changed here; correct it, then try again');
  if (resolve(from) === resolve(to)) return;
  const gid = process.getuid?.() === 0 ? groupId(GROUP) : null;
  writeSafeFile(to, readFileSync(from), gid === null ? { mode: 0o600 } : { mode: 0o640, owner: { uid: 0, gid } });
}

/** Restarts the service where systemd runs and root asks. Returns what comes next. */
function startService(wanted: boolean): string {
  const next = 'next: systemctl restart stile-gate, then stile-gate doctor';
  if (!wanted || process.getuid?.() !== 0 || !existsSync('/run/systemd/system') || !existsSync(UNIT)) return next;
  const { status } = spawnSync('systemctl', ['restart', 'stile-gate.service'], { stdio: 'ignore' });
  return status === 0
    ? 'the gate runs with it; stile-gate doctor looks at every part'
    : 'the service did not start: journalctl -u stile-gate, stile-gate doctor';
}

function readFile(path: string): Partial<Record<'token' | 'cloud' | 'broker' | 'ca', string>> {
  const errors: ConfigError[] = [];
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw new CliError(EXIT.badConfig, `${path} cannot be read (${(error as NodeJS.ErrnoException).code})`, 'name the file with --file, or give --token');
  }
  const tree = parseYaml(text, path, errors);
  const wrong = (what: string) =>
    new CliError(EXIT.badConfig, `${path}: ${what}`, 'it holds: cloud: https://…, broker: mqtts://…, token: …, and ca: <file> where needed');
  if (errors.length > 0) throw wrong(errors.map(({ line, what }) => `line ${line}: ${what}`).join('; '));
  if (tree?.kind !== 'map') throw wrong('is empty');
  const values: Partial<Record<'token' | 'cloud' | 'broker' | 'ca', string>> = {};
  for (const [name, value] of tree.entries) {
    if (name !== 'token' && name !== 'cloud' && name !== 'broker' && name !== 'ca') throw wrong(`${name} is not known here`);
    if (value.kind !== 'scalar' || typeof value.value !== 'string') throw wrong(`${name} is not text`);
    values[name] = value.value;
  }
  return values;
}

function readCa(path: string): string {
  try {
    const pem = readFileSync(path, 'utf8');
    new X509Certificate(pem);
    return pem;
  } catch (error) {
    throw new CliError(EXIT.failed, `${path} is no certificate: ${(error as Error).message}`, "give the authority's certificate in PEM with --ca");
  }
}

/** Checks the answer. Returns null when it fits this gate and its key. */
function checkAnswer(answer: Answer, key: string, configured: string | null): { what: string; hint: string } | null {
  if (configured !== null && answer.gate !== configured)
    return {
      what: `the token was for ${answer.gate}, and this gate is configured as ${configured}`,
      hint: `get a token for ${configured} (stile-cloud enroll ${configured}), or correct gate`,
    };
  try {
    const certificate = new X509Certificate(answer.certificate);
    if (!certificate.checkPrivateKey(createPrivateKey(key)))
      return { what: "the certificate is not for this gate's key", hint: 'get another token and try again' };
    if (/^CN=(.*)$/m.exec(certificate.subject)?.[1] !== answer.gate)
      return { what: `the certificate is made out to ${certificate.subject}`, hint: 'see the authority of the cloud' };
    new X509Certificate(answer.ca);
  } catch (error) {
    return { what: `the cloud's answer holds no certificate: ${(error as Error).message}`, hint: 'see the authority of the cloud' };
  }
  for (const value of answer.keys) {
    const parsed = PublicKey.safeParse(value);
    if (!parsed.success || !readPublicKey(parsed.data.spki).ok) return { what: 'the cloud names a key that cannot be used', hint: 'see stile-cloud keys' };
  }
  return null;
}
