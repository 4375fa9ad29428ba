import { execFileSync, spawnSync } from 'node:child_process';
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { createTestCa } from './test-ca.ts';

test('issues certificates that name the gate, under the right authority, with their keys', async () => {
  const ca = await createTestCa();
  const gate = await ca.issue(`${'s'.repeat(31)}/${'g'.repeat(31)}`);
  const certificate = new X509Certificate(gate.cert);
  expect(certificate.subject).toBe(`CN=${'s'.repeat(31)}/${'g'.repeat(31)}`);
  expect(certificate.verify(new X509Certificate(ca.ca).publicKey)).toBe(true);
  expect(certificate.checkIssued(new X509Certificate(ca.ca))).toBe(true);
  expect(certificate.verify(new X509Certificate(ca.cloudCa).publicKey)).toBe(false);
  expect(certificate.checkPrivateKey(createPrivateKey(gate.key))).toBe(true);
  expect(new X509Certificate(ca.cloud.cert).verify(new X509Certificate(ca.cloudCa).publicKey)).toBe(true);
  expect(new X509Certificate(ca.broker.cert).checkIP('127.0.0.1')).toBe('127.0.0.1');
  expect(new Date(new X509Certificate((await ca.issue('a/b', -1)).cert).validTo).getTime()).toBeLessThan(Date.now());
});

test('writes what a trial needs from the command line, keys for the owner alone', () => {
  const folder = mkdtempSync(join(tmpdir(), 'stile-ca-'));
  execFileSync(process.execPath, [join(import.meta.dirname, 'test-ca.ts'), folder, 'arena/north-03']);
  expect(readdirSync(folder).sort()).toEqual([
    'arena_north-03.crt',
    'arena_north-03.key',
    'broker.crt',
    'broker.key',
    'cloud-ca.crt',
    'cloud.crt',
    'cloud.key',
    'gates-ca.crt',
    'gates.crl',
    'ingest.crt',
    'ingest.key',
  ]);
  expect(statSync(join(folder, 'arena_north-03.key')).mode & 0o777).toBe(0o600);
  expect(readFileSync(join(folder, 'gates.crl'), 'utf8')).toMatch(/^-----BEGIN X509 CRL-----/);
  rmSync(folder, { recursive: true });
});

test("a name that is no gate's writes nothing, neither there nor elsewhere", () => {
  const folder = mkdtempSync(join(tmpdir(), 'stile-ca-'));
  const below = join(folder, 'a', 'b', 'certs');
  const names = ['../../x', 'Arena/North', 'arena/../../x', '/etc/x', 'arena'];
  for (const name of process.env['STILE_PROVE'] === '1' ? names : names.slice(0, 2)) {
    const { status, stderr } = spawnSync(process.execPath, [join(import.meta.dirname, 'test-ca.ts'), below, 'arena/north-03', name], { encoding: 'utf8' });
    expect({ name, status, stderr }).toEqual({ name, status: 2, stderr: expect.stringContaining(`${JSON.stringify(name)} is no gate: write <site>/<gate>`) });
  }
  expect(readdirSync(folder, { recursive: true })).toEqual([]);
  rmSync(folder, { recursive: true });
});
