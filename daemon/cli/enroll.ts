/**
 * Enrols this gate: exchanges a one-use token for a certificate. Creates the key here; it never leaves the machine. Checks everything
 * before it uses the token, and replaces the old files only when all new ones are written.
 */
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { accessSync, chownSync, constants, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { dirname, join, resolve } from 'node:path';
import { EnrollResponse } from '../../contract/http.ts';
import { PublicKey } from '../../contract/manifest.ts';
import { readPublicKey } from '../../rules/keys.ts';
import { openSafeFile, type SafeFile } from '../../runtime/safe-file.ts';
import type { ConfigError } from '../config/fields.ts';
import { formatConfigErrors, loadConfig } from '../config/load.ts';
import { parseYaml } from '../config/sources.ts';
import { groupId } from '../platform/groups.ts';
import { causeOf, networkHint } from './doctor-network.ts';
import { CliError, EXIT, print } from './exit-codes.ts';
import type { CommonOptions } from './options.ts';

/** Files in which an SD card's first start finds its enrolment. */
export const BOOT_FILES = ['/boot/firmware/stile-enroll.yaml', '/boot/stile-enroll.yaml'];
const ANSWER_WAIT_MS = 30_000;
const MAX_ANSWER_BYTES = 256 * 1024;
/** Remaining life of a certificate, in ms, above which enroll needs --force. */
const RENEW_MS = 30 * 86_400_000;
const GROUP = 'stile-gate';
const LOOPBACK = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/;

export interface EnrollOptions extends CommonOptions {
  readonly token?: string;
  readonly cloud?: string;
  readonly broker?: string;
  readonly ca?: string;
  readonly file?: string;
  readonly force?: boolean;
}

/** Settings of an enrolment: from the command line, the file, and the configuration, in this order. */
interface Wanted {
  readonly token: string;
  readonly cloud: string;
  readonly broker: string;
  /** PEM of the cloud's authority; null: the system's authorities. */
  readonly ca: string | null;
  /** Configured name; null: none. */
  readonly gate: string | null;
  /** The file that named the token. */
  readonly from: string | null;
}

export async function enroll(options: EnrollOptions): Promise<void> {
  const wanted = gather(options);
  const folder = dirname(resolve(options.config));
  prepare(folder, options.force === true);
  const { newSigningRequest } = await import('./csr.ts');
  const { key, csr } = await newSigningRequest(wanted.gate ?? 'stile-gate');
  const answer = await buy(wanted, csr);
  const problem = checkAnswer(answer, key, wanted.gate);
  if (problem !== null) throw new CliError(EXIT.failed, problem.what, `nothing was changed here; ${problem.hint}`);
  const files = place(folder, wanted, answer, key);
  const loaded = loadConfig(options.config, process.env);
  const { gate, assignment } = answer;
  const certificate = new X509Certificate(answer.certificate);
  const until = new Date(certificate.validTo).toISOString();
  print(options.json, { gate, files, not_after: until, event_ids: assignment.event_ids, config_ok: loaded.ok }, () =>
    [
      `this is ${gate} now, with a certificate until ${until.slice(0, 10)}`,
      ...files.map((file) => `  ${file}`),
      assignment.event_ids.length === 0 ? 'it is assigned to no event yet: stile-cloud assign' : `it is assigned to ${assignment.event_ids.join(', ')}`,
      ...(wanted.from === null ? [] : [`${wanted.from} is no longer needed: its token is used, and the file may be deleted`]),
      loaded.ok ? 'next: systemctl restart stile-gate, then stile-gate doctor' : `next, fix the configuration:\n${formatConfigErrors(loaded.errors).trimEnd()}`,
    ].join('\n'),
  );
}

function gather(options: EnrollOptions): Wanted {
  const from = options.file ?? (options.token === undefined ? (BOOT_FILES.find((path) => existsSync(path)) ?? null) : null);
  const given = from === null ? {} : readFile(from);
  const loaded = loadConfig(options.config, process.env, { skipFiles: true });
  const config = loaded.ok ? loaded.config : null;
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
  return { token, cloud, broker, ca: caFile === null ? null : readCa(caFile), gate: gateNamed, from };
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

/** Checks before the token is used that the files are writable and that no lasting certificate is lost. */
function prepare(folder: string, force: boolean): void {
  const certificate = join(folder, 'tls/gate.pem');
  if (!force && existsSync(certificate)) {
    const left = Date.parse(new X509Certificate(readFileSync(certificate)).validTo) - Date.now();
    if (left > RENEW_MS)
      throw new CliError(
        EXIT.failed,
        `this gate has a certificate already, for ${Math.floor(left / 86_400_000)} days more (${certificate})`,
        '--force replaces it',
      );
  }
  try {
    for (const part of ['tls', 'conf.d']) {
      mkdirSync(join(folder, part), { recursive: true, mode: 0o750 });
      accessSync(join(folder, part), constants.W_OK);
    }
    accessSync(folder, constants.W_OK);
  } catch (error) {
    throw new CliError(EXIT.failed, `${folder} may not be written (${(error as NodeJS.ErrnoException).code})`, 'use sudo; the token was not used');
  }
}

type Answer = ReturnType<typeof EnrollResponse.parse> & { readonly token?: unknown };

async function buy({ token, cloud, ca }: Wanted, csr: string): Promise<Answer> {
  let answer: { status: number; text: string };
  try {
    answer = await post(new URL('enroll', cloud.endsWith('/') ? cloud : `${cloud}/`), JSON.stringify({ token, csr }), token, ca);
  } catch (error) {
    const cause = causeOf(error);
    const hint = /not yet valid|NOT_YET_VALID/i.test(cause)
      ? "this machine's clock is behind: let a time server be reached, or timedatectl set-time"
      : networkHint(cause).replace('(cloud.ca)', '(--ca)');
    throw new CliError(EXIT.unreachable, `${cloud} is not reached: ${cause}`, hint);
  }
  let body: unknown;
  try {
    body = JSON.parse(answer.text);
  } catch {
    body = null;
  }
  if (answer.status !== 200) {
    const { error, message } = (body ?? {}) as { error?: string; message?: string };
    const reason = message ?? `it answers with ${answer.status}, and not as Stile's cloud does`;
    throw new CliError(
      answer.status === 503 || answer.status === 429 ? EXIT.tryAgain : EXIT.failed,
      `the cloud refuses${error === undefined ? '' : ` (${error})`}: ${reason}`,
    );
  }
  const parsed = EnrollResponse.safeParse(body);
  if (!parsed.success)
    throw new CliError(EXIT.failed, `${cloud} answers otherwise than an enrolment is answered`, 'is that address the cloud of Stile, and of the same version?');
  return parsed.data;
}

/** Posts the request. Sends the token in a header too: the cloud accepts it even when it blocks the address after failed attempts. */
function post(url: URL, body: string, token: string, ca: string | null): Promise<{ status: number; text: string }> {
  return new Promise((done, reject) => {
    const tls = ca === null ? {} : { ca };
    const request = (url.protocol === 'https:' ? https : http).request(
      url,
      {
        method: 'POST',
        headers: {
          'content-type': 'application/json',
          'content-length': Buffer.byteLength(body),
          accept: 'application/json',
          authorization: `Bearer ${token}`,
        },
        agent: false,
        ...tls,
      },
      (response) => {
        let text = '';
        response.setEncoding('utf8');
        response.on('data', (chunk: string) => {
          text += chunk;
          if (text.length > MAX_ANSWER_BYTES) response.destroy(new Error(`its answer is larger than ${MAX_ANSWER_BYTES} bytes`));
        });
        response.on('end', () => done({ status: response.statusCode ?? 0, text }));
        response.on('error', reject);
      },
    );
    request.setTimeout(ANSWER_WAIT_MS, () => request.destroy(new Error(`no answer within ${ANSWER_WAIT_MS / 1000} s`)));
    request.on('error', reject);
    request.end(body);
  });
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

/** Writes new files beside the old ones, then replaces them. Returns their paths. */
function place(folder: string, { cloud, broker, ca, gate: configured }: Wanted, answer: Answer, key: string): string[] {
  const plain = broker.startsWith('mqtt:');
  const quoted = (text: string) => JSON.stringify(text);
  const token = typeof answer.token === 'string' ? answer.token : null;
  const lines = [
    '# Written by stile-gate enroll; the next enrolment writes it anew.',
    ...(configured === null ? [`gate: ${quoted(answer.gate)}`] : []),
    'mqtt:',
    `  url: ${quoted(broker)}`,
    ...(plain ? [] : ['  ca: ../tls/ca.pem', '  cert: ../tls/gate.pem', '  key: ../tls/gate.key']),
    'cloud:',
    `  url: ${quoted(cloud)}`,
    ...(ca === null ? [] : ['  ca: ../tls/cloud-ca.pem']),
    ...(token === null ? [] : ['  token_file: ../cloud-token']),
    '  keys: ../keys.json',
    '',
  ];
  const files: readonly (readonly [string, string])[] = [
    ['tls/gate.key', key],
    ['tls/gate.pem', answer.certificate],
    ['tls/ca.pem', answer.ca],
    ...(ca === null ? [] : [['tls/cloud-ca.pem', ca] as const]),
    ['keys.json', `${JSON.stringify({ keys: answer.keys }, null, 2)}\n`],
    ...(token === null ? [] : [['cloud-token', `${token}\n`] as const]),
    ['conf.d/50-enrolment.yaml', lines.join('\n')],
  ];
  const gid = process.getuid?.() === 0 ? groupId(GROUP) : null;
  // The gate reads these files and changes none; other users cannot read them.
  const access = gid === null ? { mode: 0o600 } : { mode: 0o640, owner: { uid: 0, gid } };
  const begun: SafeFile[] = [];
  try {
    for (const [name, text] of files) {
      const file = openSafeFile(join(folder, name), access);
      begun.push(file);
      writeFileSync(file.fd, text.endsWith('\n') ? text : `${text}\n`);
    }
    if (gid !== null) for (const part of ['tls', 'conf.d']) chownSync(join(folder, part), 0, gid);
    for (const file of begun) file.commit();
  } finally {
    for (const file of begun) file.abandon();
  }
  return files.map(([name]) => join(folder, name));
}
