/** Errors in the configuration: all of them at once, with file, line and hint; nothing starts. */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, test } from 'vitest';
import { openPtyPair } from '../../daemon/sim/pty-pair.ts';
import { run } from '../../testkit/stack.ts';

const STILE_GATE = fileURLToPath(new URL('../../daemon/stile-gate', import.meta.url));
const STILE_CLOUD = fileURLToPath(new URL('../../cloud/stile-cloud', import.meta.url));
const BAD_CONFIGURATION = 78;
const dir = mkdtempSync(join(tmpdir(), 'stile-configuration-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const GATE_YAML = `gate: Arena North
reader: { name: in }
readers:
  - { name: in, path: ${dir}/reader, bauds: 9600, frame: crfl }
turnstile:
  relase: pulse
  pulse_ms: 20 s
board:
  driver: sim
  sim_socket: ${dir}/sim.sock
  outputs: { release_in: 17, green_in: 17 }
mqtt: { url: "http://broker.lan" }
store: { path: ${dir}/store }
control: { socket: ${dir}/gate.sock }
`;

test('stile-gate run: unknown keys and every other error are told together, and nothing was started', async () => {
  const file = join(dir, 'gate.yaml');
  mkdirSync(join(dir, 'conf.d'));
  const more = join(dir, 'conf.d/10-night.yaml');
  writeFileSync(file, GATE_YAML);
  writeFileSync(more, '\nlog: { level: loud }\n');
  const reader = openPtyPair({ readerLink: join(dir, 'reader') });
  try {
    for (const command of ['run', 'check-config']) {
      const { code, stdout, stderr } = await run(STILE_GATE, [command, '--config', file], { ...process.env, STILE_TURNSTILE_REPEAT_MS: 'often' });
      expect(code, stderr).toBe(BAD_CONFIGURATION);
      expect(stdout).toBe('');
      const said = (place: string, what: RegExp) => {
        const line = stderr.split('\n').find((one) => one.includes(place) && what.test(one));
        expect(line, `${place} ${what}\n${stderr}`).toBeDefined();
        // What is wrong, and after it how it is mended.
        expect(line).toMatch(/: .+: .+; .+/);
      };
      said(`${file}:1: gate`, /lower|<site>|arena/i);
      said(`${file}:2: reader`, /did you mean readers/);
      said(`${file}:4: readers[0].bauds`, /did you mean baud/);
      said(`${file}:4: readers[0].frame`, /crlf/);
      said(`${file}:6: turnstile.relase`, /did you mean release/);
      said(`${file}:7: turnstile.pulse_ms`, /milliseconds/);
      said(`${file}:11: board.outputs.green_in`, /17/);
      said(`${file}:12: mqtt.url`, /mqtts?:\/\//);
      said(`${more}:2: log.level`, /info/);
      said('environment STILE_TURNSTILE_REPEAT_MS', /milliseconds/);
      expect(stderr).toMatch(/10 errors in the configuration; nothing was started/);
    }
    expect(readdirSync(dir).toSorted()).toEqual(['conf.d', 'gate.yaml', 'reader']);
    expect(existsSync(join(dir, 'store'))).toBe(false);
  } finally {
    reader.close();
  }
});

test('stile-cloud all: every wrong setting is told together, and nothing was started', async () => {
  const { code, stderr } = await run(STILE_CLOUD, ['all'], {
    PATH: process.env['PATH'],
    HOME: dir,
    DATABASE_URL: 'mysql://db.example/stile',
    STILE_HTTP_PORT: '80808',
    STILE_MQTT_CERT: join(dir, 'nowhere.pem'),
    STILE_SIGNING_KEY_FILE: join(dir, 'signing-key.pem'),
    STILE_LOG_LEVEL: 'loud',
  });
  expect(code).toBe(BAD_CONFIGURATION);
  for (const name of ['DATABASE_URL', 'STILE_MQTT_URL', 'STILE_MQTT_CERT', 'STILE_HTTP_PORT', 'STILE_LOG_LEVEL'])
    expect(stderr).toMatch(new RegExp(`^\\s*${name}.*: .+`, 'm'));
  expect(existsSync(join(dir, 'signing-key.pem'))).toBe(false);
});

test('B3: stile-cloud all refuses the address that the document prints, in one sentence', async () => {
  const { code, stderr } = await run(STILE_CLOUD, ['all'], {
    PATH: process.env['PATH'],
    HOME: dir,
    DATABASE_URL: 'postgres://stile@127.0.0.1:1/stile',
    STILE_MQTT_URL: 'mqtt://127.0.0.1:1',
    STILE_PUBLIC_URL: 'https://cloud.example',
    STILE_SIGNING_KEY_FILE: join(dir, 'signing-key.pem'),
  });
  expect({ code, stderr }).toEqual({
    code: BAD_CONFIGURATION,
    stderr: expect.stringContaining("STILE_PUBLIC_URL: cloud.example is the example's, not yours; write what is true of this installation"),
  });
});
