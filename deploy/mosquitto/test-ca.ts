/**
 * A certificate authority for tests and trials: CAs for gates and for the cloud, the broker's certificate, gates' certificates
 * (CN = `<site>/<gate>`), the cloud's (CN = `_cloud`, and `_ingest` for programs that only take in) and the list of revoked ones. ECDSA P-256, made in memory.
 * From a shell: `node deploy/mosquitto/test-ca.ts <folder> <site>/<gate>…` writes them as files. Not for production: its keys are not guarded.
 */
import { webcrypto } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
// The x509 library needs it before it is loaded.
import 'reflect-metadata';
import * as x509 from '@peculiar/x509';
import { CLOUD_IDENTITY, INGEST_IDENTITY } from '../../cloud/mqtt/broker-acl.ts';
import { GateName } from '../../contract/ids.ts';

/** A certificate and its key, PEM. */
export interface Identity {
  readonly cert: string;
  readonly key: string;
}

export interface TestCa {
  /** PEM: signs the broker's and the gates' certificates. What clients trust. */
  readonly ca: string;
  /** PEM: its key, for a cloud that enrols gates (STILE_CA_KEY). Not among the files that are written. */
  readonly caKey: string;
  /** PEM: signs the cloud's certificates. What the cloud's listener trusts. */
  readonly cloudCa: string;
  readonly broker: Identity;
  readonly cloud: Identity;
  readonly ingest: Identity;
  /** A certificate for `<site>/<gate>` (or any common name, for imposters). `days` < 0: expired already. */
  issue(commonName: string, days?: number): Promise<Identity>;
  /** From the next `crl()` on, this certificate is refused. */
  revoke(identity: Identity): void;
  /** PEM. */
  crl(): Promise<string>;
}

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
const DAY_MS = 86_400_000;
const CA_DAYS = 3650;

interface Authority {
  readonly name: string;
  readonly keys: webcrypto.CryptoKeyPair;
  readonly certificate: x509.X509Certificate;
}

/** `hosts`: the names and addresses that the broker is reached by. */
export async function createTestCa(options: { readonly hosts?: readonly string[] } = {}): Promise<TestCa> {
  x509.cryptoProvider.set(webcrypto as Crypto);
  const gates = await authority('CN=Stile test gates CA');
  const cloud = await authority('CN=Stile test cloud CA');
  const revoked: { serialNumber: string; revocationDate: Date; reason: x509.X509CrlReason }[] = [];
  const hosts = options.hosts ?? ['localhost', '127.0.0.1'];
  const names = new x509.SubjectAlternativeNameExtension(hosts.map((value) => ({ type: /^[\d.]+$|:/.test(value) ? 'ip' : 'dns', value })));
  return {
    ca: gates.certificate.toString('pem'),
    caKey: pem('PRIVATE KEY', await webcrypto.subtle.exportKey('pkcs8', gates.keys.privateKey)),
    cloudCa: cloud.certificate.toString('pem'),
    broker: await leaf(gates, 'broker', 825, [names, new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth])]),
    cloud: await leaf(cloud, CLOUD_IDENTITY, 825, [new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.clientAuth])]),
    ingest: await leaf(cloud, INGEST_IDENTITY, 825, [new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.clientAuth])]),
    issue: (commonName, days = 825) => leaf(gates, commonName, days, [new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.clientAuth])]),
    revoke({ cert }) {
      revoked.push({ serialNumber: new x509.X509Certificate(cert).serialNumber, revocationDate: new Date(), reason: x509.X509CrlReason.keyCompromise });
    },
    async crl() {
      const list = await x509.X509CrlGenerator.create({
        issuer: gates.name,
        thisUpdate: new Date(Date.now() - 60_000),
        nextUpdate: new Date(Date.now() + CA_DAYS * DAY_MS),
        entries: revoked,
        signingAlgorithm: ALGORITHM,
        signingKey: gates.keys.privateKey as CryptoKey,
      });
      return pem('X509 CRL', list.rawData);
    },
  };
}

const newKeys = () => webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);

async function authority(name: string): Promise<Authority> {
  const keys = await newKeys();
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    name,
    keys: keys as { publicKey: CryptoKey; privateKey: CryptoKey },
    signingAlgorithm: ALGORITHM,
    notBefore: new Date(Date.now() - DAY_MS),
    notAfter: new Date(Date.now() + CA_DAYS * DAY_MS),
    extensions: [
      new x509.BasicConstraintsExtension(true, 1, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
    ],
  });
  return { name, keys, certificate };
}

async function leaf(issuer: Authority, commonName: string, days: number, extensions: x509.Extension[]): Promise<Identity> {
  const keys = await newKeys();
  const notAfter = new Date(Date.now() + days * DAY_MS);
  const certificate = await x509.X509CertificateGenerator.create({
    subject: [{ CN: [commonName] }],
    issuer: issuer.name,
    publicKey: keys.publicKey as CryptoKey,
    signingKey: issuer.keys.privateKey as CryptoKey,
    signingAlgorithm: ALGORITHM,
    notBefore: new Date(Math.min(Date.now(), notAfter.getTime()) - DAY_MS),
    notAfter,
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      ...extensions,
    ],
  });
  return { cert: certificate.toString('pem'), key: pem('PRIVATE KEY', await webcrypto.subtle.exportKey('pkcs8', keys.privateKey)) };
}

function pem(label: string, der: ArrayBuffer): string {
  return `-----BEGIN ${label}-----\n${Buffer.from(der)
    .toString('base64')
    .replace(/.{1,64}/g, '$&\n')}-----END ${label}-----\n`;
}

/**
 * Writes what a broker, the cloud and some gates need below `folder`; keys are readable by the owner only. Throws a TypeError for a name that is no
 * gate's (names become names of files), before anything is written.
 */
export async function writeTestCa(ca: TestCa, folder: string, gates: readonly string[] = []): Promise<void> {
  const strange = gates.find((gate) => !GateName.safeParse(gate).success);
  if (strange !== undefined)
    throw new TypeError(`${JSON.stringify(strange)} is no gate: write <site>/<gate>, each 1 to 31 of a-z, 0-9 and -, such as arena/north-03`);
  mkdirSync(folder, { recursive: true });
  const write = (name: string, text: string) => writeFileSync(join(folder, name), `${text.trimEnd()}\n`, { mode: name.endsWith('.key') ? 0o600 : 0o644 });
  write('gates-ca.crt', ca.ca);
  write('cloud-ca.crt', ca.cloudCa);
  write('gates.crl', await ca.crl());
  for (const [name, identity] of [
    ['broker', ca.broker],
    ['cloud', ca.cloud],
    ['ingest', ca.ingest],
  ] as const) {
    write(`${name}.crt`, identity.cert);
    write(`${name}.key`, identity.key);
  }
  for (const gate of gates) {
    const identity = await ca.issue(gate);
    write(`${gate.replace('/', '_')}.crt`, identity.cert);
    write(`${gate.replace('/', '_')}.key`, identity.key);
  }
}

if (import.meta.main) {
  const [folder, ...gates] = process.argv.slice(2);
  if (folder === undefined || folder.startsWith('-')) {
    console.error('usage: node deploy/mosquitto/test-ca.ts <folder> [<site>/<gate> …]');
    process.exit(2);
  }
  try {
    await writeTestCa(await createTestCa(), folder, gates);
  } catch (error) {
    console.error(`test-ca: ${(error as Error).message}`);
    process.exit(error instanceof TypeError ? 2 : 1);
  }
  console.log(`written to ${folder}`);
}
