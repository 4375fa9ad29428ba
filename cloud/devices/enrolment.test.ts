import { spawnSync } from 'node:child_process';
import { createPublicKey, generateKeyPairSync, webcrypto, X509Certificate } from 'node:crypto';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import 'reflect-metadata';
import * as x509 from '@peculiar/x509';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { EnrollResponse } from '../../contract/http.ts';
import { type FreshDatabase, freshDatabase, makeVenue, type Venue } from '../../testkit/database.ts';
import { createTestHttp } from '../../testkit/http.ts';
import type { App } from '../http/server.ts';
import { ENROLMENT_TOKEN_PREFIX, newEnrolmentToken, newToken, renewToken, revokeDevice } from './assignment.ts';
import { AuthorityError, openAuthority } from './certificates.ts';
import { registerEnrolment } from './enrolment.ts';
import { createIdentify } from './identity.ts';

const EC = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
let fresh: FreshDatabase;
let venue: Venue;
let app: App;
let ca: x509.X509Certificate;
const folder = mkdtempSync(join(tmpdir(), 'stile-enrol-'));
const files = { cert: join(folder, 'ca.crt'), key: join(folder, 'ca.key') };

beforeAll(async () => {
  fresh = await freshDatabase();
  venue = await makeVenue(fresh.url);
  x509.cryptoProvider.set(webcrypto as Crypto);
  const keys = (await webcrypto.subtle.generateKey(EC, true, ['sign', 'verify'])) as webcrypto.CryptoKeyPair;
  ca = await x509.X509CertificateGenerator.createSelfSigned({
    name: 'CN=Gates',
    keys,
    signingAlgorithm: EC,
    notAfter: new Date(Date.now() + 3650 * 86_400_000),
    extensions: [new x509.BasicConstraintsExtension(true, 0, true)],
  });
  writeFileSync(files.cert, ca.toString('pem'));
  writeFileSync(files.key, '', { mode: 0o600 });
  writeFileSync(files.key, x509.PemConverter.encode(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey), 'PRIVATE KEY'));
  app = await createTestHttp(fresh.database, { ratePerMinute: 1000 });
  registerEnrolment(app, {
    database: fresh.database,
    authority: await openAuthority(files),
    keys: [{ key_id: 'k1', use: 'manifest', alg: 'Ed25519', spki: 'AAAA', not_after: null }],
    broker: 'mqtts://broker.example:8883',
  });
});
afterAll(async () => {
  await app.close();
  await fresh.drop();
  rmSync(folder, { recursive: true, force: true });
});

async function enrolmentToken(validHours = 1): Promise<string> {
  const { token, sha256 } = newToken(ENROLMENT_TOKEN_PREFIX);
  await fresh.database.withTenant(venue.tenantId, (client) =>
    client.query('INSERT INTO enrolment_tokens (tenant_id, token_sha256, device, expires_at) VALUES ($1, $2, $3, now() + make_interval(hours => $4))', [
      venue.tenantId,
      sha256,
      venue.gates[0],
      validHours,
    ]),
  );
  return token;
}
async function request(name = 'CN=whoever'): Promise<{ csr: string; spki: Buffer }> {
  const keys = (await webcrypto.subtle.generateKey(EC, true, ['sign', 'verify'])) as webcrypto.CryptoKeyPair;
  const csr = await x509.Pkcs10CertificateRequestGenerator.create({ name, keys, signingAlgorithm: EC });
  return { csr: csr.toString('pem'), spki: Buffer.from(await webcrypto.subtle.exportKey('spki', keys.publicKey)) };
}
const enrol = (body: object) => app.inject({ method: 'POST', url: '/enroll', payload: body });

test('a token buys a certificate for its own gate, whatever the request calls itself, and once', async () => {
  const [token, { csr, spki }] = [await enrolmentToken(), await request('CN=another/gate')];
  const response = await enrol({ token, csr });
  expect(response.statusCode).toBe(200);
  const answer = EnrollResponse.parse(response.json());
  expect(answer).toMatchObject({ gate: venue.gates[0], assignment: { event_ids: [venue.eventId] }, keys: [{ key_id: 'k1' }] });
  const certificate = new X509Certificate(answer.certificate);
  expect([
    certificate.subject,
    certificate.ca,
    certificate.checkIssued(new X509Certificate(answer.ca)),
    certificate.verify(new X509Certificate(ca.toString('pem')).publicKey),
  ]).toEqual([`CN=${venue.gates[0]}`, false, true, true]);
  expect(
    createPublicKey(certificate.publicKey.export({ type: 'spki', format: 'pem' }))
      .export({ type: 'spki', format: 'der' })
      .equals(spki),
  ).toBe(true);
  expect(await createIdentify(fresh.database)({ token: answer['token'] as string, deviceName: null })).toEqual({
    kind: 'device',
    tenantId: venue.tenantId,
    device: venue.gates[0],
  });
  expect((await enrol({ token, csr })).json()).toMatchObject({ success: false, error: 'UNAUTHENTICATED' });
});

test('enrolment accepts one of two at once', async () => {
  const token = await enrolmentToken();
  const both = await Promise.all([enrol({ token, csr: (await request()).csr }), enrol({ token, csr: (await request()).csr })]);
  expect(both.map(({ statusCode }) => statusCode).sort()).toEqual([200, 401]);
});

test('a malformed or forged request costs no token; an old token opens nothing', async () => {
  const token = await enrolmentToken();
  const { csr } = await request();
  const bytes = x509.PemConverter.decodeFirst(csr);
  const forged = new Uint8Array(bytes);
  forged[forged.length - 1] = (forged[forged.length - 1] as number) ^ 1;
  for (const bad of ['', 'rubbish', x509.PemConverter.encode(forged.buffer, 'CERTIFICATE REQUEST')])
    expect((await enrol({ token, csr: bad })).json()).toMatchObject({ success: false, error: 'BAD_REQUEST', message: expect.stringContaining('csr') });
  expect((await enrol({ token, csr })).statusCode).toBe(200);
  expect((await enrol({ token: await enrolmentToken(-1), csr })).statusCode).toBe(401);
});

test('an authority that is none is named', async () => {
  writeFileSync(join(folder, 'ed.key'), generateKeyPairSync('ed25519').privateKey.export({ type: 'pkcs8', format: 'pem' }), { mode: 0o600 });
  await expect(openAuthority({ ...files, key: join(folder, 'ed.key') })).rejects.toThrow(/STILE_CA_KEY .*ed25519 keys are not used/);
  await expect(openAuthority({ ...files, cert: files.key })).rejects.toThrow(AuthorityError);
});

test("S6: an authority's key that others may read is refused with the mend; so is a weak one", async () => {
  for (const mode of [0o644, 0o640, 0o604, 0o660]) {
    chmodSync(files.key, mode);
    await expect(openAuthority(files), mode.toString(8)).rejects.toThrow(
      `STILE_CA_KEY ${files.key}: mode ${mode.toString(8)} lets others read the key: chmod 600`,
    );
  }
  chmodSync(files.key, 0o400);
  await openAuthority(files);
  chmodSync(files.key, 0o600);
  const weak = generateKeyPairSync('rsa', { modulusLength: 1024 }).privateKey.export({ type: 'pkcs8', format: 'pem' });
  writeFileSync(join(folder, 'weak.key'), weak, { mode: 0o600 });
  await expect(openAuthority({ ...files, key: join(folder, 'weak.key') })).rejects.toThrow(/RSA key of 1024 bits/);
});

const openssl = spawnSync('openssl', ['version']).status === 0;
/** A signing request as a technician makes it by hand. */
function requestOf(key: readonly string[], digest: readonly string[] = ['-sha256']): string {
  const file = join(folder, 'request.key');
  const made = spawnSync('openssl', ['genpkey', ...key, '-out', file], { encoding: 'utf8' });
  if (made.status !== 0) throw new Error(made.stderr);
  const asked = spawnSync('openssl', ['req', '-new', '-key', file, '-subj', '/CN=whoever', ...digest], { encoding: 'utf8' });
  if (asked.status !== 0) throw new Error(asked.stderr);
  return asked.stdout;
}
const rsa = (bits: number, exponent = '65537') => ['-algorithm', 'RSA', '-pkeyopt', `rsa_keygen_bits:${bits}`, '-pkeyopt', `rsa_keygen_pubexp:${exponent}`];
const ec = (curve: string) => ['-algorithm', 'EC', '-pkeyopt', `ec_paramgen_curve:${curve}`];

test.skipIf(!openssl)('S6: a weak key or signature buys no certificate, costs no token, and is told what to send instead', async () => {
  const token = await enrolmentToken();
  for (const [what, csr, why] of [
    ['RSA of 1024 bits', requestOf(rsa(1024)), '1024 bits'],
    ['RSA of 2040 bits', requestOf(rsa(2040)), '2040 bits'],
    ['RSA with exponent 3', requestOf(rsa(2048, '3')), 'exponent 3'],
    ['a huge exponent', requestOf(rsa(2048, '18446744073709551557')), 'exponent'],
    ['secp256k1', requestOf(ec('secp256k1')), 'secp256k1'],
    ['P-224', requestOf(ec('secp224r1')), 'secp224r1'],
    ['P-521', requestOf(ec('secp521r1')), 'secp521r1'],
    ['Ed448', requestOf(['-algorithm', 'ED448'], []), 'ed448'],
    ['SHA-1 over RSA', requestOf(rsa(2048), ['-sha1']), 'SHA-1'],
    ['SHA-1 over P-256', requestOf(ec('P-256'), ['-sha1']), 'SHA-1'],
  ] as const) {
    const response = await enrol({ token, csr });
    expect([what, response.statusCode, response.json()['message']]).toEqual([what, 400, expect.stringMatching(new RegExp(`^csr: .*${why}`))]);
  }
  for (const [what, csr] of [
    ['RSA', requestOf(rsa(2048))],
    ['P-256', requestOf(ec('P-256'))],
    ['P-384', requestOf(ec('P-384'), ['-sha384'])],
    ['Ed25519', requestOf(['-algorithm', 'ED25519'], [])],
  ] as const)
    expect([what, (await enrol({ token: what === 'RSA' ? token : await enrolmentToken(), csr })).statusCode]).toEqual([what, 200]);
});

test('S6: a gate has one valid enrolment token at a time, and none from before a revocation', async () => {
  const gate = venue.gates[1] as string;
  const make = async () =>
    (await fresh.database.withTenant(venue.tenantId, (client) => newEnrolmentToken(client, venue.tenantId, gate, 1))) as { token: string; revoked: boolean };
  const status = async (token: string) => (await enrol({ token, csr: (await request()).csr })).statusCode;
  const revoked = async () =>
    (
      await fresh.database.withTenant(venue.tenantId, (client) =>
        client.query<{ at: Date | null }>('SELECT revoked_at AS at FROM devices WHERE name = $1', [gate]),
      )
    ).rows[0]?.at;
  const [first, second] = [await make(), await make()];
  expect([await status(first.token), await status(second.token)]).toEqual([401, 200]);
  const unused = await make();
  await fresh.database.withTenant(venue.tenantId, (client) => revokeDevice(client, gate));
  // As where a token is made at the same moment: it was not there yet when the others were ended.
  await fresh.database.withTenant(venue.tenantId, (client) => client.query('UPDATE enrolment_tokens SET used_at = NULL WHERE device = $1', [gate]));
  expect([await status(unused.token), await status(first.token)]).toEqual([401, 401]);
  expect(await revoked()).not.toBeNull();
  const again = await make();
  expect(again.revoked).toBe(true);
  expect([await status(again.token), await revoked()]).toEqual([200, null]);
  expect(await fresh.database.withTenant(venue.tenantId, (client) => newEnrolmentToken(client, venue.tenantId, 'arena/nobody', 1))).toBeNull();
  // A revocation and an enrolment at once: whichever comes second finds what the first left.
  for (let round = 0; round < 8; round++) {
    await fresh.database.withTenant(venue.tenantId, (client) => renewToken(client, gate));
    const { token } = await make();
    const { csr } = await request();
    const [enrolled] = await Promise.all([enrol({ token, csr }), fresh.database.withTenant(venue.tenantId, (client) => revokeDevice(client, gate))]);
    expect([200, 401]).toContain(enrolled.statusCode);
    expect(await revoked(), `round ${round}: ${enrolled.statusCode}`).not.toBeNull();
  }
});
