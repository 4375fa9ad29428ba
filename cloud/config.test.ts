import { expect, test } from 'vitest';
import { readConfig } from './config.ts';

test('defaults are those of a single machine', () => {
  const result = readConfig({ DATABASE_URL: 'postgres://stile@127.0.0.1/stile' }, { mqtt: false });
  expect(result).toMatchObject({
    ok: true,
    config: { mqtt: null, http: { host: '127.0.0.1', port: 8080, publicUrl: null }, tenant: 'default', logLevel: 'info', manifestTtlHours: 24, ca: null },
  });
  expect(Object.isFrozen(result.ok && result.config)).toBe(true);
});

test('every error is named at once, each by its setting', () => {
  const result = readConfig(
    {
      DATABASE_URL: 'mysql://x',
      STILE_MQTT_URL: 'tcp',
      STILE_MQTT_CERT: '/nowhere/cert.pem',
      STILE_HTTP_PORT: '70000',
      STILE_LOG_LEVEL: 'loud',
      STILE_CA_CERT: '/nowhere/ca.pem',
      STILE_PUBLIC_URL: 'cloud.example',
    },
    { mqtt: true },
  );
  expect(result.ok).toBe(false);
  const text = result.ok ? '' : result.errors.join('\n');
  for (const name of ['DATABASE_URL', 'STILE_MQTT_URL', 'STILE_MQTT_CERT', 'STILE_HTTP_PORT', 'STILE_LOG_LEVEL', 'STILE_CA_CERT', 'STILE_PUBLIC_URL'])
    expect(text).toContain(name);
  expect(text).toContain('give both or neither');
});

test('a missing broker is an error only where one is needed', () => {
  const env = { DATABASE_URL: 'postgres://stile@127.0.0.1/stile' };
  expect(readConfig(env, { mqtt: false }).ok).toBe(true);
  expect(readConfig(env, { mqtt: true })).toMatchObject({ ok: false, errors: [expect.stringContaining('STILE_MQTT_URL')] });
});

test('B3: the configuration refuses placeholders of a document, wherever they stand', () => {
  const good = { DATABASE_URL: 'postgres://stile@127.0.0.1/stile', STILE_MQTT_URL: 'mqtt://127.0.0.1:1883', STILE_PUBLIC_URL: 'http://192.168.1.10:8080' };
  expect(readConfig(good, { mqtt: true }).ok).toBe(true);
  for (const [name, value] of [
    ['STILE_PUBLIC_URL', 'https://cloud.example'],
    ['DATABASE_URL', 'postgres://stile:…@127.0.0.1/stile'],
    ['STILE_MQTT_URL', 'mqtts://broker.example.com:8884'],
    ['STILE_TENANT', '<tenant>'],
    ['STILE_SIGNING_KEY_FILE', '/etc/stile/….pem'],
  ] as const) {
    const result = readConfig({ ...good, [name]: value }, { mqtt: true });
    expect([name, result.ok ? [] : result.errors.filter((error) => error.startsWith(`${name}: `) && error.includes("is the example's"))]).toEqual([
      name,
      [expect.stringContaining('not yours')],
    ]);
  }
});
