/**
 * The gate's configuration: gate.yaml, conf.d/*.yaml beside it, STILE_… in the environment → one frozen Config, or
 * every error at once, each with file, line, key and the hint. Reads files only; starts nothing.
 */
import { createHash } from 'node:crypto';
import { dirname, isAbsolute, resolve } from 'node:path';
import { splitGateName } from '../../contract/ids.ts';
import type { PublicKey } from '../../contract/manifest.ts';
import { holdsFree } from '../lane/config.ts';
import { INPUT_NAMES, OUTPUT_NAMES } from '../ports.ts';
import { type At, type Certificate, checkBoard, checkCloud, checkMqtt, checkReaders, checkStore, checkTimes, type Partly } from './checks.ts';
import { type ConfigError, formatConfigError, type Origin, type Report, snake } from './fields.ts';
import { INPUT_WIRING, SCHEMA, type Settings } from './schema.ts';
import { readSources } from './sources.ts';

export const DEFAULT_CONFIG_FILE = '/etc/stile/gate.yaml';

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
  | { readonly ok: true; readonly config: Config; readonly warnings: readonly ConfigError[]; readonly origins: ReadonlyMap<string, Origin> }
  | { readonly ok: false; readonly errors: readonly ConfigError[]; readonly warnings: readonly ConfigError[] };

/** Loads the configuration. Never throws. `env`: usually process.env. `skipFiles`: the files that settings name (certificates, keys) need not be there yet. */
export function loadConfig(file: string, env: Readonly<Record<string, string | undefined>> = {}, options: { readonly skipFiles?: boolean } = {}): LoadedConfig {
  const sources = readSources(resolve(file), env, SCHEMA);
  const report: Report = { errors: [...sources.errors], warnings: [...sources.warnings], origins: new Map() };
  if (sources.tree === null) return { ok: false, errors: report.errors, warnings: report.warnings };
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
  if (report.errors.length > 0) return { ok: false, errors: report.errors, warnings: report.warnings };
  const whole = withExit(withSimLines(settings as Settings), at);
  const { site, gate: gateId } = splitGateName(whole.gate);
  const sha256 = createHash('sha256').update(JSON.stringify(whole)).digest('hex');
  return {
    ok: true,
    config: freeze({ ...whole, site, gateId, certificate, keys, sha256, files: sources.files }),
    warnings: report.warnings,
    origins: report.origins,
  };
}

/** Returns every error on a line of its own, and how many. */
export function formatConfigErrors(errors: readonly ConfigError[]): string {
  return `${errors.map(formatConfigError).join('\n')}\n${errors.length === 1 ? 'one error' : `${errors.length} errors`} in the configuration; nothing was started\n`;
}

/** Returns the settings as a file would say them (snake_case), without what was only derived. */
export function effectiveSettings(config: Config): Record<string, unknown> {
  const { site: _site, gateId: _gateId, certificate: _certificate, keys: _keys, sha256: _sha256, files: _files, ...settings } = config;
  const rename = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(rename);
    if (value === null || typeof value !== 'object') return value;
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [snake(key), rename(inner)]));
  };
  return rename(settings) as Record<string, unknown>;
}

/** Applies the settings of the exit: which way the button opens, and that a dead process cannot close what a held signal keeps open. */
function withExit(settings: Settings, at: At): Settings {
  const { board, turnstile } = settings;
  const { release_out: out } = board.outputs;
  const button = at.given('turnstile.button') || out !== undefined ? turnstile.button : 'in';
  const staysOpen = out !== undefined && out.safe === null && holdsFree(turnstile);
  return {
    ...settings,
    turnstile: { ...turnstile, button },
    board: staysOpen ? { ...board, outputs: { ...board.outputs, release_out: { ...out, safe: out.active } } } : board,
  };
}

/** Gives a software turnstile that names no lines all that its readers can use. */
function withSimLines(settings: Settings): Settings {
  const { board, readers, turnstile } = settings;
  if (board.driver !== 'sim' || Object.keys(board.outputs).length + Object.keys(board.inputs).length > 0) return settings;
  const out = readers.some(({ direction }) => direction === 'out');
  const outputs = OUTPUT_NAMES.filter((name) => name !== 'stop' && (out || !name.endsWith('_out')));
  const inputs = INPUT_NAMES.filter((name) =>
    name.startsWith('beam')
      ? turnstile.sensor === 'beams'
      : name.startsWith('passage')
        ? turnstile.sensor === 'per_direction' && (out || name === 'passage_in')
        : true,
  );
  return {
    ...settings,
    board: {
      ...board,
      outputs: Object.fromEntries(outputs.map((name, line) => [name, { line, active: 'high', safe: null }])),
      inputs: Object.fromEntries(inputs.map((name, line) => [name, { line: outputs.length + line, ...INPUT_WIRING[name], debounceMs: null }])),
    },
  };
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
    error: (key, what, hint) => void report.errors.push({ ...origin(key), key, what, hint }),
    warning: (key, what, hint) => void report.warnings.push({ ...origin(key), key, what, hint }),
  };
}

/** Resolves relative paths: from the folder of the file that says it; from the environment, from the working directory. */
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
    ...(mqtt && {
      mqtt: {
        ...mqtt,
        ca: from('mqtt.ca', mqtt.ca),
        cert: from('mqtt.cert', mqtt.cert),
        key: from('mqtt.key', mqtt.key),
        passwordFile: from('mqtt.password_file', mqtt.passwordFile),
      },
    }),
    ...(cloud && {
      cloud: { ...cloud, ca: from('cloud.ca', cloud.ca), tokenFile: from('cloud.token_file', cloud.tokenFile), keys: from('cloud.keys', cloud.keys) },
    }),
    ...(store && { store: { path: from('store.path', store.path) } }),
    ...(control && { control: { ...control, socket: from('control.socket', control.socket) } }),
  };
}

function freeze<T>(value: T): T {
  if (value !== null && typeof value === 'object' && !Object.isFrozen(value)) {
    Object.freeze(value);
    for (const inner of Object.values(value)) freeze(inner);
  }
  return value;
}
