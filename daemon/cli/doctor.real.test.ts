/** Doctor as a child of the test, with the real Mosquitto: beside a running gate, without one, and with everything that can be wrong. */

import { webcrypto } from 'node:crypto';
import { mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import 'reflect-metadata';
import * as x509 from '@peculiar/x509';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { createTestCa, type TestCa } from '../../deploy/mosquitto/test-ca.ts';
import { type Broker, startBroker } from '../../testkit/broker.ts';
import { codeOf, createTestGate, GATE, type TestGate, until } from '../../testkit/gate.ts';
import type { Check } from './check-result.ts';
import { bootLevels } from './doctor-machine.ts';

let at: TestGate;
let broker: Broker;
beforeAll(async () => {
  at = await createTestGate();
  broker = await startBroker({ tls: true, acl: [{ gate: GATE, revoked: false }] });
  mkdirSync(join(at.dir, 'conf.d'));
});
afterEach(() => at.killAll());
afterAll(async () => {
  await broker.stop();
  at.remove();
});

/** Gives the gate this identity; the broker's own authority, unless another is named. */
async function identity(how: { ca?: TestCa; trusted?: string; days?: number; url?: string } = {}): Promise<void> {
  const { ca = broker.ca as TestCa, days = 825, url = broker.url } = how;
  const { trusted = ca.ca } = how;
  const { cert, key } = await ca.issue(GATE, days);
  for (const [name, text] of [
    ['ca.crt', trusted],
    ['gate.crt', cert],
    ['gate.key', key],
  ] as const)
    writeFileSync(join(at.dir, name), text, { mode: 0o600 });
  writeFileSync(join(at.dir, 'conf.d/broker.yaml'), `mqtt: { url: "${url}", ca: ../ca.crt, cert: ../gate.crt, key: ../gate.key }\n`);
}
async function examine(): Promise<{ code: number; part: (name: string) => Check | undefined; checks: Check[] }> {
  const { code, stdout, stderr } = await at.cli('doctor', '--json');
  if (stdout === '') throw new Error(stderr);
  const { checks } = JSON.parse(stdout) as { checks: Check[] };
  expect(checks.filter(({ result, hint }) => result !== 'ok' && hint === '')).toEqual([]);
  return { code, checks, part: (name) => checks.find(({ part }) => part === name) };
}

test('without a gate: the broker lets its name in, the card is measured, the record is read; what is wrong is named', async () => {
  await identity();
  const { code, part } = await examine();
  expect(part('broker')).toEqual({ part: 'broker', result: 'ok', cause: `${broker.url} lets ${GATE} in`, hint: '' });
  expect(part('card')?.cause).toMatch(/writes, each synced after|is in memory/);
  expect(part('gate')).toMatchObject({ result: 'warn', cause: 'is not running' });
  expect(part('tickets')?.cause).toContain('concert: version 1');
  expect(part('certificate')).toMatchObject({ result: 'ok' });
  // Nothing listens where the test's cloud should be.
  expect(part('cloud')).toMatchObject({ result: 'fail', hint: expect.stringContaining('known tickets are admitted') });
  expect(code).toBe(1);
});

test('beside a running gate nothing happens under its name', async () => {
  await identity();
  const gate = await at.start();
  await until(at.status, (now) => now.uplink.online);
  at.show(codeOf(1));
  await until(at.status, (now) => now.totals.passages === 1 && now.signals.in === 'ready');
  const { part } = await examine();
  expect(part('broker')).toMatchObject({ result: 'ok', cause: expect.stringContaining('online') });
  expect(part('reader in')).toMatchObject({ result: 'ok' });
  expect(part('ledger')?.cause).toMatch(/newest \d+ rows?: none missing, none changed/);
  expect(part('backlog')?.cause).toMatch(/acknowledged/);
  expect((await at.status()).uplink.online).toBe(true);
  expect(broker.log()).not.toMatch(/already connected/);
  await at.end(gate, 'SIGTERM');
});

test('TLS and refusals are explained', async () => {
  const stranger = await createTestCa();
  await identity({ trusted: stranger.ca });
  expect((await examine()).part('broker')).toMatchObject({ result: 'fail', hint: expect.stringContaining('mqtt.ca') });
  await identity({ ca: stranger, trusted: (broker.ca as TestCa).ca });
  expect((await examine()).part('broker')).toMatchObject({ result: 'fail' });
  await identity({ url: broker.url.replace(/\d+$/, '9') });
  expect((await examine()).part('broker')).toMatchObject({ result: 'fail', cause: expect.stringContaining('ECONNREFUSED') });
  await identity({ days: -1 });
  expect((await examine()).part('certificate')).toMatchObject({ result: 'fail', cause: expect.stringContaining('ended on') });
});

test('a certificate that is not yet valid is a fault of the clock', async () => {
  const keys = (await webcrypto.subtle.generateKey({ name: 'ECDSA', namedCurve: 'P-256' }, true, ['sign', 'verify'])) as webcrypto.CryptoKeyPair;
  x509.cryptoProvider.set(webcrypto as Crypto);
  const tomorrow = new Date(Date.now() + 86_400_000);
  const ca = await x509.X509CertificateGenerator.createSelfSigned({
    name: 'CN=From tomorrow',
    keys,
    signingAlgorithm: { name: 'ECDSA', hash: 'SHA-256' },
    notBefore: tomorrow,
    notAfter: new Date(tomorrow.getTime() + 86_400_000),
  });
  await identity({ trusted: ca.toString('pem') });
  const { code, checks } = await examine();
  expect(code).toBe(1);
  expect(checks.filter(({ part, result }) => part === 'clock' && result === 'fail')[0]).toMatchObject({
    cause: expect.stringContaining('not yet valid'),
    hint: expect.stringContaining('timedatectl'),
  });
});

test('a reader that is not there, and a file in its place', async () => {
  await identity();
  const conf = join(at.dir, 'conf.d/readers.yaml');
  writeFileSync(conf, 'readers: [{ name: in, path: ../nowhere }]\n');
  expect((await examine()).part('reader in')).toMatchObject({
    result: 'fail',
    cause: expect.stringContaining('is not there'),
    hint: expect.stringContaining('readers'),
  });
  symlinkSync(at.config, join(at.dir, 'nowhere'));
  expect((await examine()).part('reader in')).toMatchObject({ result: 'fail', cause: expect.stringContaining('no serial port') });
  rmSync(conf);
});

test('a control socket that cannot be made is found before the gate fails to start by it', async () => {
  await identity();
  const conf = join(at.dir, 'conf.d/socket.yaml');
  writeFileSync(conf, 'control: { socket: ../no-folder/gate.sock }\n');
  expect((await examine()).part('control')).toMatchObject({
    result: 'fail',
    cause: expect.stringContaining('no-folder is not there'),
    hint: expect.stringContaining('control.socket'),
  });
  expect(await at.cli('run')).toMatchObject({ code: 1, stderr: expect.stringContaining('cannot be made') });
  writeFileSync(conf, 'control: { socket: ../kept.txt }\n');
  writeFileSync(join(at.dir, 'kept.txt'), 'mine');
  expect((await examine()).part('control')).toMatchObject({ result: 'fail', cause: expect.stringContaining('is no socket') });
  expect(await at.cli('run')).toMatchObject({ code: 1, stderr: expect.stringContaining('is no socket') });
  expect(readFileSync(join(at.dir, 'kept.txt'), 'utf8')).toBe('mine');
  writeFileSync(conf, 'control: { socket: ../kept.txt/gate.sock }\n');
  expect((await examine()).checks[0]).toMatchObject({ part: 'config', result: 'fail', cause: expect.stringContaining('control.socket') });
  rmSync(conf);
  expect((await examine()).part('control')?.result).not.toBe('fail');
});

test.each([
  ['an active-low release on a line that is low at power-on', { line: 17, active: 'low', safe: null }, null, 'warn'],
  ['an active-high release on a line that is high at power-on', { line: 5, active: 'high', safe: null }, '# nothing\n', 'warn'],
  ['the same, held by the firmware', { line: 5, active: 'high', safe: null }, '[all]\ngpio=5=op,dl\n', 'ok'],
  ['the same, held at the wrong level', { line: 5, active: 'high', safe: null }, 'gpio=5=op,dh\n', 'warn'],
] as const)('power-on: %s', (_what, release_in, bootFile, result) => {
  const board = { driver: 'gpio', outputs: { release_in }, inputs: {}, simSocket: null, simDraw: false, simGuest: true, simPassageMs: 800 } as const;
  expect(bootLevels({ board }, bootFile)).toMatchObject([{ part: 'board', result }]);
});

test('power-on: a line whose level fits says nothing', () => {
  const board = {
    driver: 'gpio',
    outputs: { release_in: { line: 17, active: 'high', safe: null } },
    inputs: {},
    simSocket: null,
    simDraw: false,
    simGuest: true,
    simPassageMs: 800,
  } as const;
  expect(bootLevels({ board }, null)).toEqual([]);
});
