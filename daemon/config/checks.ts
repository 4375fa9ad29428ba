/**
 * Checks settings against one another, and the files that they name. Adds to the report; skips settings that could not be read.
 */
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import type { PublicKey } from '../../contract/manifest.ts';
import { readKeyEntry, readPublicKey } from '../../rules/keys.ts';
import type { Settings } from './schema.ts';

/** The sections that were read without an error; the others are absent. */
export type Partly = Partial<Settings>;

export interface Certificate {
  readonly commonName: string | null;
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
}

/** Says where a setting stands, whether or not it was given. */
export interface At {
  /** Tells whether a setting was given at all (rightly or not). */
  given(key: string): boolean;
  error(key: string, what: string, hint: string): void;
  warning(key: string, what: string, hint: string): void;
  readonly skipFiles: boolean;
}

export function checkReaders({ readers, board, turnstile }: Partly, at: At): void {
  if (readers === undefined) return;
  const seen = new Map<string, string>();
  readers.forEach((reader, index) => {
    for (const [key, value] of [
      ['name', reader.name],
      ['path', reader.path],
    ] as const) {
      const first = seen.get(`${key} ${value}`);
      if (first !== undefined) at.error(`readers[${index}].${key}`, `is the same as ${first}`, 'give each reader its own');
      seen.set(`${key} ${value}`, `readers[${index}].${key}`);
    }
    if (board?.driver === 'gpio' && !at.given(`board.outputs.release_${reader.direction}.line`)) {
      at.error(
        `readers[${index}].direction`,
        `reads for direction ${reader.direction}, which has no release`,
        `give board.outputs.release_${reader.direction}, or change the direction`,
      );
    }
  });
  const outward = readers.findIndex(({ direction }) => direction === 'out');
  if (outward >= 0 && turnstile?.exit === 'free')
    at.warning(
      `readers[${outward}].direction`,
      'reads outwards, and turnstile.exit is free: the lane is open outwards and asks nobody',
      'set turnstile.exit to code where exits shall be known (re-entry after an exit, passback)',
    );
  for (const direction of ['in', 'out'] as const) {
    if (direction === 'out' && turnstile?.exit === 'free') continue;
    if (board?.outputs[`release_${direction}`] !== undefined && !readers.some((reader) => reader.direction === direction)) {
      at.warning(
        `board.outputs.release_${direction}`,
        `no reader serves direction ${direction}`,
        'it opens only by button, by command or in mode free; add a reader if guests shall scan there',
      );
    }
  }
}

export function checkBoard({ board, turnstile }: Partly, at: At): void {
  if (board === undefined) return;
  const used = new Map<number, string>();
  const given = [
    ...Object.entries(board.outputs).map(([name, { line }]) => [`board.outputs.${name}`, line] as const),
    ...Object.entries(board.inputs).map(([name, { line }]) => [`board.inputs.${name}`, line] as const),
  ];
  for (const [key, line] of given) {
    const first = used.get(line);
    if (first !== undefined) at.error(key, `line ${line} is already used by ${first}`, 'give each its own BCM line');
    else used.set(line, key);
  }
  if (at.given('turnstile.button') && turnstile !== undefined && turnstile.button !== 'in' && board.driver !== 'sim' && board.outputs.release_out === undefined)
    at.error('turnstile.button', `is ${turnstile.button}, and there is no release outwards`, 'give board.outputs.release_out, or set it to in');
  if (turnstile?.exit === 'code' && board.driver !== 'sim' && board.outputs.release_out === undefined)
    at.error(
      'turnstile.exit',
      'is code, and there is no release outwards',
      'give board.outputs.release_out and a reader with direction out, or set it to free',
    );
  if (board.driver === 'sim') {
    // A software turnstile has every line; the settings of the gpio driver are then only names.
    return;
  }
  for (const key of ['board.sim_socket', 'board.sim_draw', 'board.sim_guest', 'board.sim_passage_ms'])
    if (at.given(key)) at.warning(key, 'is only for driver sim', 'take it out, or set board.driver to sim');
  for (const direction of ['in', 'out'] as const) {
    if (turnstile?.sensor === 'per_direction' && board.outputs[`release_${direction}`] !== undefined && !at.given(`board.inputs.passage_${direction}.line`)) {
      at.error(
        `board.inputs.passage_${direction}`,
        'is missing, and turnstile.sensor is per_direction',
        `give the line on which the turnstile reports a passage ${direction}, or set turnstile.sensor to none`,
      );
    }
  }
  for (const beam of ['beam_a', 'beam_b'] as const) {
    if (turnstile?.sensor === 'beams' && !at.given(`board.inputs.${beam}.line`))
      at.error(`board.inputs.${beam}`, 'is missing, and turnstile.sensor is beams', "give the light barrier's line, or another turnstile.sensor");
  }
  for (const [name, { active, safe }] of Object.entries(board.outputs)) {
    if (name === 'release_in' && safe === active)
      at.warning(
        `board.outputs.${name}.safe`,
        'its safe level is its active one: the lane is open whenever the gate is not running',
        'leave safe out, unless that is meant',
      );
  }
  if (!at.given('board.inputs.fire.line'))
    at.warning('board.inputs', 'there is no fire input', 'give board.inputs.fire, unless the fire release is wired round the gate altogether');
}

export function checkTimes({ turnstile }: Partly, at: At): void {
  if (turnstile === undefined) return;
  if (turnstile.waitAfterMs >= turnstile.refuseAfterMs)
    at.error('turnstile.wait_after_ms', `is not below refuse_after_ms (${turnstile.refuseAfterMs})`, 'lower it');
  if (turnstile.stuckTimeoutMs <= turnstile.passageTimeoutMs)
    at.error('turnstile.stuck_timeout_ms', `is not above passage_timeout_ms (${turnstile.passageTimeoutMs})`, 'raise it');
  if (turnstile.release === 'hold' && turnstile.freeBy === 'repulse')
    at.warning('turnstile.free_by', 'repulse with release hold', 'a lane that is held open is kept free by hold');
}

const LOOPBACK = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/;

export function checkMqtt({ mqtt, gate }: Partly, at: At): Certificate | null {
  if (mqtt === undefined) return null;
  if (mqtt === null) {
    at.warning('mqtt', 'is not given', 'the gate works alone: rows stay here and nobody sees it; give mqtt.url');
    return null;
  }
  const { protocol, hostname } = new URL(mqtt.url);
  if (protocol === 'mqtt:') {
    if (!LOOPBACK.test(hostname)) at.warning('mqtt.url', 'is not encrypted and leaves this machine', 'use mqtts:// with mqtt.ca, mqtt.cert and mqtt.key');
    for (const key of ['ca', 'cert', 'key'] as const)
      if (mqtt[key] !== null) at.error(`mqtt.${key}`, 'is given, but mqtt.url is not encrypted', 'use mqtts://, or take it out');
    if (mqtt.passwordFile !== null) readSecret('mqtt.password_file', mqtt.passwordFile, at);
    return null;
  }
  if ((mqtt.cert === null) !== (mqtt.key === null))
    at.error(mqtt.cert === null ? 'mqtt.cert' : 'mqtt.key', 'is missing', 'certificate and key belong together: give both or neither');
  if (mqtt.passwordFile !== null) readSecret('mqtt.password_file', mqtt.passwordFile, at);
  if (mqtt.ca !== null) readCertificate('mqtt.ca', mqtt.ca, at);
  const certificate = mqtt.cert === null ? null : readCertificate('mqtt.cert', mqtt.cert, at);
  const key = mqtt.key === null ? null : readSecret('mqtt.key', mqtt.key, at);
  if (key !== null && mqtt.key !== null) {
    try {
      const parsed = createPrivateKey(key);
      if (certificate !== null && !certificate.checkPrivateKey(parsed))
        at.error('mqtt.key', 'does not belong to mqtt.cert', 'give the key that the certificate was made for, or enrol the gate again');
    } catch {
      at.error('mqtt.key', `${mqtt.key} holds no private key`, 'give a PEM file without a passphrase');
    }
  }
  if (certificate === null) return null;
  const commonName = /^CN=(.*)$/m.exec(certificate.subject)?.[1] ?? null;
  if (gate !== undefined && commonName !== gate)
    at.error(
      'mqtt.cert',
      `is made out to ${commonName ?? 'nobody'}, and this gate is ${gate}`,
      "enrol the gate under its own name, or set gate to the certificate's",
    );
  return { commonName, notBeforeMs: Date.parse(certificate.validFrom), notAfterMs: Date.parse(certificate.validTo) };
}

function readBytes(key: string, file: string, at: At): Buffer | null {
  if (at.skipFiles) return null;
  try {
    return readFileSync(file);
  } catch (error) {
    at.error(key, `${file} cannot be read (${(error as NodeJS.ErrnoException).code})`, "give the path of a file that the gate's user may read");
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
    at.error(key, `${file} holds no certificate`, 'give a PEM file that begins with -----BEGIN CERTIFICATE-----');
    return null;
  }
}

export function checkCloud({ cloud }: Partly, at: At): readonly PublicKey[] {
  if (cloud == null) return [];
  const { protocol, hostname } = new URL(cloud.url);
  if (protocol === 'http:' && !LOOPBACK.test(hostname)) at.warning('cloud.url', 'is not encrypted and leaves this machine', 'use https://');
  if (cloud.ca !== null) readCertificate('cloud.ca', cloud.ca, at);
  if (cloud.tokenFile !== null) readSecret('cloud.token_file', cloud.tokenFile, at);
  if (cloud.keys === null) {
    at.warning('cloud.keys', 'is not given: no manifest can be checked, so none will be taken', "give the file of keys from the gate's enrolment");
    return [];
  }
  const bytes = readBytes('cloud.keys', cloud.keys, at);
  if (bytes === null) return [];
  try {
    // As `stile-cloud keys` prints it, `{"keys": […]}`, or the list alone.
    const parsed: unknown = JSON.parse(bytes.toString('utf8'));
    const values: unknown = Array.isArray(parsed) ? parsed : (parsed as { keys?: unknown } | null)?.keys;
    if (!Array.isArray(values)) throw new Error('not a list');
    const keys = values.map(readKeyEntry).filter((key) => key !== null);
    if (keys.length < values.length) throw new Error('wrong fields');
    for (const { spki, key_id } of keys) {
      const read = readPublicKey(spki);
      if (!read.ok)
        at.error(
          'cloud.keys',
          `key ${key_id} in ${cloud.keys} is ${read.why === 'small_order' ? 'of small order: any message verifies under it' : 'not an Ed25519 key'}`,
          'take it out, and ask where it came from',
        );
    }
    return keys;
  } catch (error) {
    at.error('cloud.keys', `${cloud.keys} is no JSON list of public keys (${(error as Error).message})`, 'fetch the file again from the cloud');
    return [];
  }
}

/** sockaddr_un has 108, with the terminating zero. */
const MAX_SOCKET_PATH_BYTES = 107;

export function checkStore({ store, control }: Partly, at: At): void {
  for (const [key, path] of [
    ['store.path', store?.path],
    ['control.socket', control && dirname(control.socket)],
  ] as const) {
    if (path === undefined) continue;
    try {
      if (!statSync(path).isDirectory()) at.error(key, `${path} is not a folder`, 'name a folder');
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code !== 'ENOENT') at.error(key, `${path} cannot be used (${code})`, "name a folder that the gate's user may use");
    }
  }
  if (control !== undefined && Buffer.byteLength(control.socket) > MAX_SOCKET_PATH_BYTES)
    at.error('control.socket', 'is longer than 107 bytes', 'a socket needs a shorter path');
}
