import { execFileSync } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, expect, test } from 'vitest';
import { suggest } from './fields.ts';
import { effectiveSettings, formatConfigErrors, loadConfig } from './load.ts';
import { parseYaml } from './sources.ts';

const root = mkdtempSync(join(tmpdir(), 'stile-config-'));
afterAll(() => rmSync(root, { recursive: true }));
let count = 0;

/** A folder of its own with these files; answers gate.yaml's path. */
function write(yaml: string, more: Record<string, string> = {}): string {
  const folder = join(root, String(count++));
  mkdirSync(join(folder, 'conf.d'), { recursive: true });
  writeFileSync(join(folder, 'gate.yaml'), yaml);
  for (const [name, text] of Object.entries(more)) writeFileSync(join(folder, name), text);
  return join(folder, 'gate.yaml');
}

const GOOD = `gate: arena/north-03
readers:
  - { name: in, path: /dev/stile-reader-in }
board:
  outputs: { release_in: { line: 17, safe: low }, release_out: 27 }
  inputs: { passage_in: 20, passage_out: 21, fire: 19 }
`;

function errors(yaml: string, env: Record<string, string> = {}, more: Record<string, string> = {}) {
  const loaded = loadConfig(write(yaml, more), env);
  return loaded.ok ? [] : loaded.errors.map(({ key, line, what, hint }) => ({ key, line, text: `${what}; ${hint}` }));
}

function good(yaml: string, env: Record<string, string> = {}, more: Record<string, string> = {}) {
  const loaded = loadConfig(write(yaml, more), env);
  if (!loaded.ok) throw new Error(formatConfigErrors(loaded.errors));
  return loaded;
}

test('a short file takes the defaults, and short forms mean the same as long ones', () => {
  const { config } = good(GOOD);
  expect(config.board.outputs.release_in).toEqual({ line: 17, active: 'high', safe: 'low' });
  expect(config.board.outputs.release_out).toEqual({ line: 27, active: 'high', safe: null });
  expect(config.board.inputs.fire).toEqual({ line: 19, active: 'low', bias: 'pull-down', debounceMs: null });
  expect(config.turnstile).toMatchObject({ release: 'pulse', pulseMs: 200, passageTimeoutMs: 5000, passageGraceMs: 1500, stuckTimeoutMs: 30_000 });
  expect(config).toMatchObject({
    site: 'arena',
    gateId: 'north-03',
    mqtt: null,
    store: { path: '/var/lib/stile' },
    control: { socket: '/run/stile/gate.sock', group: 'stile-operators' },
  });
  expect(() => {
    (config.turnstile as { pulseMs: number }).pulseMs = 1;
  }).toThrow(TypeError);
});

test('the example in docs is right', () => {
  const loaded = loadConfig(new URL('../../docs/gate.yaml.example', import.meta.url).pathname);
  expect(loaded.ok ? [] : loaded.errors).toEqual([]);
});

test.each([
  ['unknown key', `${GOOD}turnstile:\n  puls_ms: 200\n`, 'turnstile.puls_ms', 8, 'did you mean pulse_ms?'],
  ['unknown section', `${GOOD}mqqt: { url: mqtt://localhost }\n`, 'mqqt', 7, 'did you mean mqtt?'],
  ['unknown key far from any', `${GOOD}log: { colours: yes }\n`, 'log.colours', 7, 'known here: level'],
  ['line that no Pi has', GOOD.replace('release_out: 27', 'release_out: 99'), 'board.outputs.release_out.line', 5, '99 is outside 0 to 53'],
  ['line twice', GOOD.replace('fire: 19', 'fire: 17'), 'board.inputs.fire', 6, 'already used by board.outputs.release_in'],
  ['bound', `${GOOD}turnstile: { pulse_ms: 6000 }\n`, 'turnstile.pulse_ms', 7, '6000 is outside 50 to 5000'],
  ['B3: the example’s broker', `${GOOD}mqtt: { url: "mqtts://broker.example:8883" }\n`, 'mqtt.url', 7, "broker.example is the example's"],
  ['B3: the example’s cloud', `${GOOD}cloud: { url: https://cloud.example }\n`, 'cloud.url', 7, "cloud.example is the example's"],
  ['B3: a port as the document prints it', GOOD.replace('/dev/stile-reader-in', '/dev/serial/by-id/usb-…'), 'readers[0].path', 3, "… is the example's"],
  ['word', `${GOOD}turnstile: { release: pules }\n`, 'turnstile.release', 7, 'did you mean pulse?'],
  ['number where text is meant', GOOD.replace('arena/north-03', '3'), 'gate', 1, "is not a gate's name"],
  ["gate's name", GOOD.replace('arena', 'Arena'), 'gate', 1, 'such as arena/north-03'],
  ['reserved gate', GOOD.replace('north-03', 'cloud'), 'gate', 1, "is not a gate's name"],
  ['baud', GOOD.replace('path:', 'baud: 9601, path:'), 'readers[0].baud', 3, '9600, 19200'],
  ['no sensor line', GOOD.replace('passage_out: 21, ', ''), 'board.inputs.passage_out', 6, 'turnstile.sensor'],
  [
    'reader without release',
    GOOD.replace('reader-in }', 'reader-in, direction: out }').replace(', release_out: 27', ''),
    'readers[0].direction',
    3,
    'release_out',
  ],
  [
    'two readers, one port',
    GOOD.replace('reader-in }', 'reader-in }\n  - { name: out, path: /dev/stile-reader-in, direction: out }'),
    'readers[1].path',
    4,
    'same as readers[0].path',
  ],
  [
    'times that contradict',
    `${GOOD}turnstile: { passage_timeout_ms: 30000, stuck_timeout_ms: 20000 }\n`,
    'turnstile.stuck_timeout_ms',
    7,
    'passage_timeout_ms',
  ],
  ['certificate without key', `${GOOD}mqtt: { url: "mqtts://b:8883", cert: /nowhere.pem }\n`, 'mqtt.key', 7, 'belong together'],
  ['unreadable certificate', `${GOOD}mqtt: { url: "mqtts://b:8883", ca: /nowhere.pem }\n`, 'mqtt.ca', 7, 'ENOENT'],
  ['address', `${GOOD}mqtt: { url: "http://b" }\n`, 'mqtt.url', 7, 'mqtts://'],
  ['store is a file', `${GOOD}store: { path: ./gate.yaml }\n`, 'store.path', 7, 'not a folder'],
  ['list where a map is meant', GOOD.replace('release_out: 27', 'release_out: [27]'), 'board.outputs.release_out', 5, 'give a map'],
  ['not YAML', `${GOOD}log: { level: info\n`, '', 7, 'not readable as YAML'],
  ['key twice', `${GOOD}gate: arena/north-04\n`, '', 7, 'unique'],
])('%s is named with its key, line and mend', (_name, yaml, key, line, text) => {
  const found = errors(yaml);
  expect(found.map((one) => one.key)).toContain(key);
  const one = found.find((error) => error.key === key);
  expect(one?.text).toContain(text);
  // Flow text that never closes is noticed at its end.
  expect([line, line + 1]).toContain(one?.line);
});

test('every error is told at once', () => {
  const found = errors(
    GOOD.replace('arena/', '')
      .replace('release_out: 27', 'release_out: 17, bell: 3')
      .replace('in, path', 'in, bord: 3, path')
      .concat('turnstile: { pulse_ms: fast }\n'),
  );
  expect(found.map((one) => one.key)).toEqual(['gate', 'readers[0].bord', 'turnstile.pulse_ms', 'board.outputs.bell', 'board.outputs.release_out']);
});

test('conf.d is read after the file and the environment last; maps merge, lists replace, null takes out', () => {
  const { config } = good(
    GOOD,
    { STILE_TURNSTILE_PULSE_MS: '400', STILE_MQTT__URL: 'mqtt://127.0.0.1:1883', STILE_BOARD_OUTPUTS_GREEN_IN: '{ line: 5, active: low }' },
    {
      'conf.d/20.yaml': 'turnstile: { pulse_ms: 300, repeat_ms: 1000 }\nboard: { inputs: { passage_out: null }, outputs: { release_out: null } }\n',
      'conf.d/10.yaml': 'turnstile: { pulse_ms: 250, refused_ms: 2000 }\n',
      'conf.d/README': 'not yaml: [',
      'conf.d/.15.yaml': 'not yaml: [',
    },
  );
  expect(config.turnstile).toMatchObject({ pulseMs: 400, repeatMs: 1000, refusedMs: 2000 });
  expect(config.mqtt?.url).toBe('mqtt://127.0.0.1:1883');
  expect(config.board.outputs).toEqual({ release_in: { line: 17, active: 'high', safe: 'low' }, green_in: { line: 5, active: 'low', safe: null } });
  expect(config.board.inputs.passage_out).toBeUndefined();
});

test('an error in conf.d or the environment is named where it stands', () => {
  const loaded = loadConfig(write(GOOD, { 'conf.d/10.yaml': '\nlog:\n  level: loud\n' }), { STILE_TURNSTILE_PULSE_MS: 'x', STILE_GAT: 'arena/x' });
  expect(loaded.ok).toBe(false);
  if (loaded.ok) return;
  const text = formatConfigErrors(loaded.errors);
  expect(text).toMatch(/conf\.d\/10\.yaml:3: log\.level: /);
  expect(text).toMatch(/environment STILE_TURNSTILE_PULSE_MS: turnstile\.pulse_ms: /);
  expect(loaded.warnings.map(({ key, hint }) => [key, hint])).toContainEqual(['STILE_GAT', 'did you mean STILE_GATE?']);
});

test('what is pasted in the wrong place is not repeated', () => {
  const loaded = loadConfig(write(`${GOOD}mqtt:\n  url: mqtts://me:hunter2@b\n  key: "-----BEGIN PRIVATE KEY-----\\nMIIabc"\n`));
  expect(loaded.ok).toBe(false);
  const text = formatConfigErrors(loaded.ok ? [] : loaded.errors);
  expect(text).toContain('password_file');
  expect(text).not.toMatch(/hunter2|MIIabc/);
});

test("relative paths are meant from their file's folder", () => {
  const { config } = good(`${GOOD}store: { path: store }\ncontrol: { socket: run/gate.sock }\n`);
  expect(config.store.path).toBe(join(config.files[0] as string, '../store'));
  expect(config.control.socket).toBe(join(config.files[0] as string, '../run/gate.sock'));
});

test('a relative path of the environment is meant from the working directory', () => {
  expect(good(GOOD, { STILE_STORE_PATH: 'store' }).config.store.path).toBe(join(process.cwd(), 'store'));
});

test('a sim board needs no lines', () => {
  const { config } = good('gate: a/b\nreaders: [{ name: in, path: /dev/x }]\nboard: { driver: sim }\n');
  expect(Object.keys(config.board.outputs)).toEqual(['release_in', 'green_in', 'red_in', 'amber_in', 'buzzer']);
  expect(Object.keys(config.board.inputs)).toEqual(['passage_in', 'button', 'fire', 'tamper', 'key_free', 'key_closed']);
});

test('certificate and key are checked against each other and the name', () => {
  const folder = mkdtempSync(join(root, 'tls-'));
  const make = (name: string, cn: string) =>
    execFileSync(
      'openssl',
      [
        'req',
        '-x509',
        '-newkey',
        'ec',
        '-pkeyopt',
        'ec_paramgen_curve:P-256',
        '-nodes',
        '-keyout',
        join(folder, `${name}.key`),
        '-out',
        join(folder, `${name}.pem`),
        '-subj',
        `/CN=${cn}`,
        '-days',
        '2',
      ],
      { stdio: 'ignore' },
    );
  make('a', 'arena\\/north-03');
  make('b', 'arena\\/north-04');
  const mqtt = (cert: string, key: string) => `${GOOD}mqtt: { url: "mqtts://b:8883", cert: ${folder}/${cert}.pem, key: ${folder}/${key}.key }\n`;
  const { config } = good(mqtt('a', 'a'));
  expect(config.certificate?.commonName).toBe('arena/north-03');
  expect((config.certificate?.notAfterMs ?? 0) - Date.now()).toBeGreaterThan(86_400_000);
  expect(errors(mqtt('a', 'b')).map(({ key }) => key)).toEqual(['mqtt.key']);
  expect(errors(mqtt('b', 'b'))[0]).toMatchObject({ key: 'mqtt.cert', text: expect.stringContaining('made out to arena/north-04') });
  expect(errors(mqtt('a', 'a').replace(`key: ${folder}/a.key`, `key: ${folder}/a.pem`)).map(({ key }) => key)).toEqual(['mqtt.key']);
});

test('pinned keys are taken as the cloud prints them, or as a list, and weak ones are refused', () => {
  const spki = generateKeyPairSync('ed25519').publicKey.export({ format: 'der', type: 'spki' }).toString('base64');
  const key = { key_id: 'k1', use: 'manifest', alg: 'Ed25519', spki, not_after: null };
  // A point of small order: any message verifies under it.
  const weak = Buffer.concat([Buffer.from(spki, 'base64').subarray(0, 12), Buffer.alloc(32)]).toString('base64');
  const yaml = `${GOOD}cloud: { url: "https://cloud.lan", keys: ./keys.json }\n`;
  for (const printed of [[key], { keys: [key] }]) expect(good(yaml, {}, { 'keys.json': JSON.stringify(printed) }).config.keys).toEqual([key]);
  for (const bad of [[{ ...key, spki: weak }], [{ ...key, alg: 'RSA' }], { keys: {} }, 'x', null]) {
    expect(errors(yaml, {}, { 'keys.json': JSON.stringify(bad) }).map((one) => one.key)).toEqual(['cloud.keys']);
  }
  expect(errors(yaml, {}, { 'keys.json': '[' }).map((one) => one.key)).toEqual(['cloud.keys']);
});

test('the shown settings load again to the same', () => {
  const { config } = good(GOOD);
  const again = good(JSON.stringify(effectiveSettings(config)));
  expect(effectiveSettings(again.config)).toEqual(effectiveSettings(config));
  expect(again.config.sha256).toBe(config.sha256);
});

test('any text is either settings or a list of errors', () => {
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.json(),
        fc.string().map((text) => `gate: ${text}`),
      ),
      (text) => {
        const file = join(root, 'any.yaml');
        writeFileSync(file, text);
        const loaded = loadConfig(file);
        return loaded.ok || loaded.errors.length > 0;
      },
    ),
    { numRuns: 300 },
  );
});

test('aliases are refused, so a small file cannot become a large tree', () => {
  const found: Parameters<typeof parseYaml>[2] = [];
  parseYaml('a: &a [1, 2]\nb: [*a, *a]\n', 'x', found);
  expect(found.map(({ line }) => line)).toEqual([2, 2]);
});

test('suggest finds the near word and nothing far', () => {
  expect(suggest('relase_in', ['release_in', 'release_out'])).toBe('release_in');
  expect(suggest('colour', ['level', 'path'])).toBeNull();
});

test('the way out: free by default, the button both ways where it opens out, and open without a process where a held signal frees', () => {
  const { config: plain } = good(GOOD);
  expect([plain.turnstile.exit, plain.turnstile.button, plain.board.outputs.release_out?.safe]).toEqual(['free', 'both', null]);
  for (const turnstile of ['{ free_by: hold }', '{ release: hold }']) {
    expect(good(`${GOOD}turnstile: ${turnstile}\n`).config.board.outputs.release_out).toEqual({ line: 27, active: 'high', safe: 'high' });
    // What somebody has said stands.
    expect(
      good(`${GOOD.replace('release_out: 27', 'release_out: { line: 27, active: low, safe: high }')}turnstile: ${turnstile}\n`).config.board.outputs.release_out
        ?.safe,
    ).toBe('high');
  }
  const oneWay = GOOD.replace(', release_out: 27', '').replace(', passage_out: 21', '');
  expect(good(oneWay).config.turnstile.button).toBe('in');
  expect(
    errors(`${oneWay}turnstile: { button: both, exit: code }\n`)
      .map(({ key }) => key)
      .join(),
  ).toMatch(/turnstile\.button.*turnstile\.exit/s);
});
