import { createPublicKey, generateKeyPairSync, webcrypto, X509Certificate } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import 'reflect-metadata';
import * as x509 from '@peculiar/x509';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { EnrollResponse } from '../../contract/http.ts';
import { type FreshDatabase, freshDatabase, makeVenue, type Venue } from '../../test/database.ts';
import { createTestHttp } from '../../test/http.ts';
import type { App } from '../http.ts';
import { ENROLMENT_TOKEN_PREFIX, newToken } from './assignment.ts';
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
  writeFileSync(files.key, x509.PemConverter.encode(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey), 'PRIVATE KEY'));
  app = await createTestHttp(fresh.database, { ratePerMinute: 1000 });
  registerEnrolment(app, {
    database: fresh.database,
    authority: await openAuthority(files),
    keys: [{ key_id: 'k1', use: 'manifest', alg: 'Ed25519', spki: 'AAAA', not_after: null }],
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

test('of two at once one gets it', async () => {
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
  writeFileSync(join(folder, 'ed.key'), generateKeyPairSync('ed25519').privateKey.export({ type: 'pkcs8', format: 'pem' }));
  await expect(openAuthority({ ...files, key: join(folder, 'ed.key') })).rejects.toThrow(/STILE_CA_KEY .*ed25519 keys are not used/);
  await expect(openAuthority({ ...files, cert: files.key })).rejects.toThrow(AuthorityError);
});
