/**
 * The gate's configuration: gate.yaml, conf.d/*.yaml beside it, STILE_… in the environment → one frozen Config, or
 * every mistake at once, each with file, line, key and the mend. Reads files only; starts nothing.
 */
import { createHash, createPrivateKey, X509Certificate } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { dirname, isAbsolute, resolve } from 'node:path';
import { splitGateName } from '../contract/ids.ts';
import { PublicKey } from '../contract/manifest.ts';
import { readPublicKey } from '../rules/keys.ts';
import { formatMistake, type Mistake, type Origin, type Report, snake } from './config-fields.ts';
import { INPUT_WIRING, SCHEMA, type Settings } from './config-schema.ts';
import { readSources } from './config-source.ts';
import { INPUT_NAMES, OUTPUT_NAMES } from './ports.ts';

export const DEFAULT_CONFIG_FILE = '/etc/stile/gate.yaml';

export interface Certificate {
  readonly commonName: string | null;
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
}

/** Frozen, deeply. Paths are absolute (relative ones were taken from their file's folder). Holds no secret: only where they are kept. */
export interface Config extends Settings {
  /** The two parts of `gate`. */
  readonly site: string;
  readonly gateId: string;
  /** Of `mqtt.cert`. */
  readonly certificate: Certificate | null;
  /** Of `cloud.keys`: verify manifests, overlays and key lists. */
  readonly keys: readonly PublicKey[];
  /** SHA-256, hex, of the effective settings; tells in `info` whether two gates are set up alike. */
  readonly sha256: string;
  readonly files: readonly string[];
}

export type LoadedConfig =
  | { readonly ok: true; readonly config: Config; readonly warnings: readonly Mistake[]; readonly origins: ReadonlyMap<string, Origin> }
  | { readonly ok: false; readonly mistakes: readonly Mistake[]; readonly warnings: readonly Mistake[] };

/** Never throws. `env`: usually process.env. `skipFiles`: the files that settings name (certificates, keys) need not be there yet. */
export function loadConfig(file: string, env: Readonly<Record<string, string | undefined>> = {}, options: { readonly skipFiles?: boolean } = {}): LoadedConfig {
  const sources = readSources(resolve(file), env, SCHEMA);
  const report: Report = { mistakes: [...sources.mistakes], warnings: [...sources.warnings], origins: new Map() };
  if (sources.tree === null) return { ok: false, mistakes: report.mistakes, warnings: report.warnings };
  const read = SCHEMA.readPartly(sources.tree, '', { file: resolve(file), line: null }, report);
  // What could be read is checked further, so that a second run does not find what the first could have told.
  const settings = absolutePaths(read, report.origins);
  const at = placeOf(report, resolve(file), options.skipFiles === true);
  checkReaders(settings, at);
  checkBoard(settings, at);
  checkTimes(settings, at);
  const certificate = checkMqtt(settings, at);
  const keys = checkCloud(settings, at);
  checkStore(settings, at);
  if (report.mistakes.length > 0) return { ok: false, mistakes: report.mistakes, warnings: report.warnings };
  const whole = withSimLines(settings as Settings);
  const { site, gate: gateId } = splitGateName(whole.gate);
  const sha256 = createHash('sha256').update(JSON.stringify(whole)).digest('hex');
  return { ok: true, config: freeze({ ...whole, site, gateId, certificate, keys, sha256, files: sources.files }), warnings: report.warnings, origins: report.origins };
}

/** Every mistake on a line of its own, and how many. */
export function formatMistakes(mistakes: readonly Mistake[]): string {
  return `${mistakes.map(formatMistake).join('\n')}\n${mistakes.length === 1 ? 'one mistake' : `${mistakes.length} mistakes`} in the configuration; nothing was started\n`;
}

/** The settings as a file would say them (snake_case), without what was only derived. */
export function effectiveSettings(config: Config): Record<string, unknown> {
  const { site: _site, gateId: _gateId, certificate: _certificate, keys: _keys, sha256: _sha256, files: _files, ...settings } = config;
  const rename = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(rename);
    if (value === null || typeof value !== 'object') return value;
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [snake(key), rename(inner)]));
  };
  return rename(settings) as Record<string, unknown>;
}

/** What could be read: a section with a mistake in it is absent. */
type Partly = Partial<Settings>;

/** A software turnstile that names no lines has all that its readers can use. */
function withSimLines(settings: Settings): Settings {
  const { board, readers, turnstile } = settings;
  if (board.driver !== 'sim' || Object.keys(board.outputs).length + Object.keys(board.inputs).length > 0) return settings;
  const out = readers.some(({ direction }) => direction === 'out');
  const outputs = OUTPUT_NAMES.filter((name) => name !== 'stop' && (out || !name.endsWith('_out')));
  const inputs = INPUT_NAMES.filter((name) => (name.startsWith('beam') ? turnstile.sensor === 'beams' : name.startsWith('passage') ? turnstile.sensor === 'per_direction' && (out || name === 'passage_in') : true));
  return {
    ...settings,
    board: {
      ...board,
      outputs: Object.fromEntries(outputs.map((name, line) => [name, { line, active: 'high', safe: null }])),
      inputs: Object.fromEntries(inputs.map((name, line) => [name, { line: outputs.length + line, ...INPUT_WIRING[name], debounceMs: null }])),
    },
  };
}

/** Says where a setting stands, whether or not it was given. */
interface At {
  /** Was it given at all (rightly or not)? */
  given(key: string): boolean;
  mistake(key: string, what: string, mend: string): void;
  warning(key: string, what: string, mend: string): void;
  readonly skipFiles: boolean;
}

function placeOf(report: Report, file: string, skipFiles: boolean): At {
  const origin = (key: string): Origin => {
    for (let at = key; at !== ''; at = at.replace(/(^|[.[])[^.[]*$/, '')) {
      const found = report.origins.get(at);
      if (found !== undefined) return found;
    }
    return { file, line: null };
  };
  return {
    skipFiles,
    given: (key) => report.origins.has(key),
    mistake: (key, what, mend) => void report.mistakes.push({ ...origin(key), key, what, mend }),
    warning: (key, what, mend) => void report.warnings.push({ ...origin(key), key, what, mend }),
  };
}

/** A relative path is meant from the folder of the file that says it; from the environment, from the working directory. */
function absolutePaths(settings: Partly, origins: ReadonlyMap<string, Origin>): Partly {
  const from = <P extends string | null>(key: string, value: P): P => {
    if (value === null || isAbsolute(value)) return value;
    const origin = origins.get(key);
    return resolve(origin === undefined || origin.line === null ? '.' : dirname(origin.file), value) as P;
  };
  const { readers, board, mqtt, cloud, store, control } = settings;
  return {
    ...settings,
    ...(readers && { readers: readers.map((reader, index) => ({ ...reader, path: from(`readers[${index}].path`, reader.path) })) }),
    ...(board && { board: { ...board, simSocket: from('board.sim_socket', board.simSocket) } }),
    ...(mqtt && { mqtt: { ...mqtt, ca: from('mqtt.ca', mqtt.ca), cert: from('mqtt.cert', mqtt.cert), key: from('mqtt.key', mqtt.key), passwordFile: from('mqtt.password_file', mqtt.passwordFile) } }),
    ...(cloud && { cloud: { ...cloud, tokenFile: from('cloud.token_file', cloud.tokenFile), keys: from('cloud.keys', cloud.keys) } }),
    ...(store && { store: { path: from('store.path', store.path) } }),
    ...(control && { control: { ...control, socket: from('control.socket', control.socket) } }),
  };
}

function checkReaders({ readers, board }: Partly, at: At): void {
  if (readers === undefined) return;
  const seen = new Map<string, string>();
  readers.forEach((reader, index) => {
    for (const [key, value] of [['name', reader.name], ['path', reader.path]] as const) {
      const first = seen.get(`${key} ${value}`);
      if (first !== undefined) at.mistake(`readers[${index}].${key}`, `is the same as ${first}`, 'give each reader its own');
      seen.set(`${key} ${value}`, `readers[${index}].${key}`);
    }
    if (board?.driver === 'gpio' && !at.given(`board.outputs.release_${reader.direction}.line`)) {
      at.mistake(`readers[${index}].direction`, `reads for direction ${reader.direction}, which has no release`, `give board.outputs.release_${reader.direction}, or change the direction`);
    }
  });
  for (const direction of ['in', 'out'] as const) {
    if (board?.outputs[`release_${direction}`] !== undefined && !readers.some((reader) => reader.direction === direction)) {
      at.warning(`board.outputs.release_${direction}`, `no reader serves direction ${direction}`, 'it opens only by button, by command or in mode free; add a reader if guests shall scan there');
    }
  }
}

function checkBoard({ board, turnstile }: Partly, at: At): void {
  if (board === undefined) return;
  const used = new Map<number, string>();
  const given = [...Object.entries(board.outputs).map(([name, { line }]) => [`board.outputs.${name}`, line] as const), ...Object.entries(board.inputs).map(([name, { line }]) => [`board.inputs.${name}`, line] as const)];
  for (const [key, line] of given) {
    const first = used.get(line);
    if (first !== undefined) at.mistake(key, `line ${line} is already used by ${first}`, 'give each its own BCM line');
    else used.set(line, key);
  }
  if (board.driver === 'sim') {
    // A software turnstile has every line; the settings of the gpio driver are then only names.
    return;
  }
  for (const key of ['board.sim_socket', 'board.sim_draw', 'board.sim_guest', 'board.sim_passage_ms']) if (at.given(key)) at.warning(key, 'is only for driver sim', 'take it out, or set board.driver to sim');
  for (const direction of ['in', 'out'] as const) {
    if (turnstile?.sensor === 'per_direction' && board.outputs[`release_${direction}`] !== undefined && !at.given(`board.inputs.passage_${direction}.line`)) {
      at.mistake(`board.inputs.passage_${direction}`, 'is missing, and turnstile.sensor is per_direction', `give the line on which the turnstile reports a passage ${direction}, or set turnstile.sensor to none`);
    }
  }
  for (const beam of ['beam_a', 'beam_b'] as const) {
    if (turnstile?.sensor === 'beams' && !at.given(`board.inputs.${beam}.line`)) at.mistake(`board.inputs.${beam}`, 'is missing, and turnstile.sensor is beams', 'give the light barrier\'s line, or another turnstile.sensor');
  }
  for (const [name, { active, safe }] of Object.entries(board.outputs)) {
    if (name.startsWith('release_') && safe === active) at.warning(`board.outputs.${name}.safe`, 'its safe level is its active one: the lane is open whenever the gate is not running', 'leave safe out, unless that is meant');
  }
  if (!at.given('board.inputs.fire.line')) at.warning('board.inputs', 'there is no fire input', 'give board.inputs.fire, unless the fire release is wired round the gate altogether');
}

function checkTimes({ turnstile }: Partly, at: At): void {
  if (turnstile === undefined) return;
  if (turnstile.waitAfterMs >= turnstile.refuseAfterMs) at.mistake('turnstile.wait_after_ms', `is not below refuse_after_ms (${turnstile.refuseAfterMs})`, 'lower it');
  if (turnstile.stuckTimeoutMs <= turnstile.passageTimeoutMs) at.mistake('turnstile.stuck_timeout_ms', `is not above passage_timeout_ms (${turnstile.passageTimeoutMs})`, 'raise it');
  if (turnstile.release === 'hold' && turnstile.freeBy === 'repulse') at.warning('turnstile.free_by', 'repulse with release hold', 'a lane that is held open is kept free by hold');
}

const LOOPBACK = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/;

function checkMqtt({ mqtt, gate }: Partly, at: At): Certificate | null {
  if (mqtt === undefined) return null;
  if (mqtt === null) {
    at.warning('mqtt', 'is not given', 'the gate works alone: rows stay here and nobody sees it; give mqtt.url');
    return null;
  }
  const { protocol, hostname } = new URL(mqtt.url);
  if (protocol === 'mqtt:') {
    if (!LOOPBACK.test(hostname)) at.warning('mqtt.url', 'is not encrypted and leaves this machine', 'use mqtts:// with mqtt.ca, mqtt.cert and mqtt.key');
    for (const key of ['ca', 'cert', 'key'] as const) if (mqtt[key] !== null) at.mistake(`mqtt.${key}`, 'is given, but mqtt.url is not encrypted', 'use mqtts://, or take it out');
    if (mqtt.passwordFile !== null) readSecret('mqtt.password_file', mqtt.passwordFile, at);
    return null;
  }
  if ((mqtt.cert === null) !== (mqtt.key === null)) at.mistake(mqtt.cert === null ? 'mqtt.cert' : 'mqtt.key', 'is missing', 'certificate and key belong together: give both or neither');
  if (mqtt.passwordFile !== null) readSecret('mqtt.password_file', mqtt.passwordFile, at);
  if (mqtt.ca !== null) readCertificate('mqtt.ca', mqtt.ca, at);
  const certificate = mqtt.cert === null ? null : readCertificate('mqtt.cert', mqtt.cert, at);
  const key = mqtt.key === null ? null : readSecret('mqtt.key', mqtt.key, at);
  if (key !== null && mqtt.key !== null) {
    try {
      const parsed = createPrivateKey(key);
      if (certificate !== null && !certificate.checkPrivateKey(parsed)) at.mistake('mqtt.key', 'does not belong to mqtt.cert', 'give the key that the certificate was made for, or enrol the gate again');
    } catch {
      at.mistake('mqtt.key', `${mqtt.key} holds no private key`, 'give a PEM file without a passphrase');
    }
  }
  if (certificate === null) return null;
  const commonName = /^CN=(.*)$/m.exec(certificate.subject)?.[1] ?? null;
  if (gate !== undefined && commonName !== gate) at.mistake('mqtt.cert', `is made out to ${commonName ?? 'nobody'}, and this gate is ${gate}`, 'enrol the gate under its own name, or set gate to the certificate\'s');
  return { commonName, notBeforeMs: Date.parse(certificate.validFrom), notAfterMs: Date.parse(certificate.validTo) };
}

function readBytes(key: string, file: string, at: At): Buffer | null {
  if (at.skipFiles) return null;
  try {
    return readFileSync(file);
  } catch (error) {
    at.mistake(key, `${file} cannot be read (${(error as NodeJS.ErrnoException).code})`, 'give the path of a file that the gate\'s user may read');
    return null;
  }
}

function readSecret(key: string, file: string, at: At): Buffer | null {
  const bytes = readBytes(key, file, at);
  if (bytes !== null && (statSync(file).mode & 0o004) !== 0) at.warning(key, `everybody may read ${file}`, `chmod o= ${file}`);
  return bytes;
}

function readCertificate(key: string, file: string, at: At): X509Certificate | null {
  const bytes = readBytes(key, file, at);
  if (bytes === null) return null;
  try {
    return new X509Certificate(bytes);
  } catch {
    at.mistake(key, `${file} holds no certificate`, 'give a PEM file that begins with -----BEGIN CERTIFICATE-----');
    return null;
  }
}

function checkCloud({ cloud }: Partly, at: At): readonly PublicKey[] {
  if (cloud == null) return [];
  const { protocol, hostname } = new URL(cloud.url);
  if (protocol === 'http:' && !LOOPBACK.test(hostname)) at.warning('cloud.url', 'is not encrypted and leaves this machine', 'use https://');
  if (cloud.tokenFile !== null) readSecret('cloud.token_file', cloud.tokenFile, at);
  if (cloud.keys === null) {
    at.warning('cloud.keys', 'is not given: no manifest can be checked, so none will be taken', 'give the file of keys from the gate\'s enrolment');
    return [];
  }
  const bytes = readBytes('cloud.keys', cloud.keys, at);
  if (bytes === null) return [];
  try {
    const values: unknown = JSON.parse(bytes.toString('utf8'));
    if (!Array.isArray(values)) throw new Error('not a list');
    const keys = values.map((value) => PublicKey.parse(value));
    for (const { spki, key_id } of keys) {
      const read = readPublicKey(spki);
      if (!read.ok) at.mistake('cloud.keys', `key ${key_id} in ${cloud.keys} is ${read.why === 'small_order' ? 'of small order: any message verifies under it' : 'not an Ed25519 key'}`, 'take it out, and ask where it came from');
    }
    return keys;
  } catch (error) {
    at.mistake('cloud.keys', `${cloud.keys} is no JSON list of public keys (${(error as Error).name === 'ZodError' ? 'wrong fields' : (error as Error).message})`, 'fetch the file again from the cloud');
    return [];
  }
}

/** sockaddr_un has 108, with the terminating zero. */
const MAX_SOCKET_PATH_BYTES = 107;

function checkStore({ store, control }: Partly, at: At): void {
  for (const [key, path] of [['store.path', store?.path], ['control.socket', control && dirname(control.socket)]] as const) {
    if (path === undefined) continue;
    try {
      if (!statSync(path).isDirectory()) at.mistake(key, `${path} is not a folder`, 'name a folder');
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code !== 'ENOENT') at.mistake(key, `${path} cannot be used (${code})`, 'name a folder that the gate\'s user may use');
    }
  }
  if (control !== undefined && Buffer.byteLength(control.socket) > MAX_SOCKET_PATH_BYTES) at.mistake('control.socket', 'is longer than 107 bytes', 'a socket needs a shorter path');
}

function freeze<T>(value: T): T {
  if (value !== null && typeof value === 'object' && !Object.isFrozen(value)) {
    Object.freeze(value);
    for (const inner of Object.values(value)) freeze(inner);
  }
  return value;
}
