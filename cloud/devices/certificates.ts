/** Signs gates' certificates with the installation's authority, and makes a first one. The only file of the cloud that imports @peculiar/x509. */
import { createHash, createPrivateKey, createPublicKey, type KeyObject, randomBytes, webcrypto } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
// The x509 library needs it before it is loaded.
import 'reflect-metadata';
import * as x509 from '@peculiar/x509';
import { replaceDurableFile } from '../../runtime/durable-file.ts';

const DAY_MS = 86_400_000;
/** Life of a gate's certificate. `health` and `info` report its end; a new one needs a new enrolment. */
const CERTIFICATE_DAYS = 825;
/** Start before now, for a gate whose clock is somewhat behind. */
const BACKDATED_MS = DAY_MS;
/** Life of a first authority, and of its list of revoked certificates. */
const AUTHORITY_DAYS = 3_650;
/** Life of a list of revoked certificates: past it the broker lets no gate in. It is made anew every day. */
export const REVOCATION_LIST_DAYS = 45;
/** Start of a list before now, for a broker whose clock is somewhat behind. */
const LIST_BACKDATED_MS = 5 * 60_000;
/** Life of a certificate that ends another's connection. */
const SHORT_LIFE_MS = 5 * 60_000;
/** Bytes of a serial number: random, so that none repeats. */
const SERIAL_BYTES = 16;
/** The common name by which the broker knows the cloud (cloud/mqtt/broker-acl.ts). */
const CLOUD_NAME = '_cloud';
/** The common name of programs that only ingest: they command no gate. */
const INGEST_NAME = '_ingest';

export interface Authority {
  /** PEM: the authority that gates trust. */
  readonly ca: string;
  /**
   * Returns a certificate for exactly this gate, whatever subject the request names. Returns null for a text that is no signing request, or is not
   * signed by its own key. Throws WeakRequestError for a weak key or signature.
   */
  sign(csr: string, gate: string): Promise<SignedCertificate | null>;
  /**
   * Returns the list of revoked certificates in PEM, good for REVOCATION_LIST_DAYS. `after`: the list before it; the new one is dated later, because
   * a broker that holds both believes the later one.
   */
  revocationList(revoked: readonly RevokedCertificate[], after: string | null): Promise<string>;
  /** Returns a certificate and key in this gate's name, good for SHORT_LIFE_MS: for the program that ends the connection of a revoked certificate. */
  shortIdentity(gate: string): Promise<{ readonly certificate: string; readonly key: string }>;
}

export interface SignedCertificate {
  readonly certificate: string;
  /** Hexadecimal, in lower case. */
  readonly serial: string;
  readonly sha256: Buffer;
  readonly notAfter: Date;
}

export interface RevokedCertificate {
  readonly serial: string;
  readonly revokedAt: Date;
}

/** The files are invalid; the message names them and the repair. */
export class AuthorityError extends Error {
  override name = 'AuthorityError';
}

/** The request is readable but refused; the message has the cause and what to send instead. */
export class WeakRequestError extends Error {
  override name = 'WeakRequestError';
}

type Algorithm = { readonly name: string; readonly namedCurve?: string; readonly hash: string };

/** Reads the authority's certificate and key. Throws AuthorityError. */
export async function openAuthority(files: { readonly cert: string; readonly key: string }): Promise<Authority> {
  x509.cryptoProvider.set(webcrypto as Crypto);
  const issuer = readCertificate(files.cert, 'STILE_CA_CERT ');
  const { key, algorithm } = await readKey(files.key, 'STILE_CA_KEY ');
  if (issuer.getExtension(x509.BasicConstraintsExtension)?.ca !== true)
    throw new AuthorityError(`STILE_CA_CERT ${files.cert}: not the certificate of an authority (CA:TRUE)`);
  const ca = issuer.toString('pem');
  const gateCertificate = async (gate: string, publicKey: x509.PublicKeyType, lifeMs: number): Promise<SignedCertificate> => {
    const notAfter = new Date(Math.min(Date.now() + lifeMs, issuer.notAfter.getTime()));
    const serial = newSerial();
    const certificate = await x509.X509CertificateGenerator.create({
      serialNumber: serial,
      subject: [{ CN: [gate] }],
      issuer: issuer.subject,
      publicKey,
      signingKey: key,
      signingAlgorithm: algorithm,
      notBefore: new Date(Date.now() - BACKDATED_MS),
      notAfter,
      extensions: [
        new x509.BasicConstraintsExtension(false, undefined, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
        new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.clientAuth]),
      ],
    });
    return { certificate: certificate.toString('pem'), serial, sha256: createHash('sha256').update(Buffer.from(certificate.rawData)).digest(), notAfter };
  };
  return {
    ca,
    async sign(csr, gate) {
      let request: x509.Pkcs10CertificateRequest;
      try {
        request = new x509.Pkcs10CertificateRequest(csr);
        refuseWeak(request);
        if (!(await request.verify())) return null;
      } catch (error) {
        if (error instanceof WeakRequestError) throw error;
        return null;
      }
      return gateCertificate(gate, request.publicKey, CERTIFICATE_DAYS * DAY_MS);
    },
    async revocationList(revoked, after) {
      const before = after === null ? null : (revocationList(after)?.thisUpdate ?? null);
      const list = await x509.X509CrlGenerator.create({
        issuer: issuer.subject,
        thisUpdate: new Date(laterThan(before)),
        nextUpdate: new Date(Date.now() + REVOCATION_LIST_DAYS * DAY_MS),
        entries: revoked.map(({ serial, revokedAt }) => ({ serialNumber: serial, revocationDate: revokedAt })),
        signingAlgorithm: algorithm,
        signingKey: key,
      });
      return `${x509.PemConverter.encode(list.rawData, 'X509 CRL')}\n`;
    },
    async shortIdentity(gate) {
      const keys = await newKeys();
      const { certificate } = await gateCertificate(gate, keys.publicKey, SHORT_LIFE_MS);
      return { certificate, key: await keyPem(keys) };
    },
  };
}

/** Returns the start of a list that follows `before`; one that a wrong clock dated in the future is not followed: the broker would refuse every gate. */
function laterThan(before: Date | null): number {
  const wanted = Date.now() - LIST_BACKDATED_MS;
  const next = (before?.getTime() ?? 0) + 1_000;
  return next > Date.now() ? wanted : Math.max(wanted, next);
}

/** Positive and without leading zeros, so that it reads the same everywhere. */
function newSerial(): string {
  const bytes = randomBytes(SERIAL_BYTES);
  bytes[0] = ((bytes[0] as number) & 0x3f) | 0x40;
  return bytes.toString('hex');
}

/** Bits of an RSA key: a smaller one can be factored for money; a signature of a larger one costs everybody time. */
const RSA_BITS = { min: 2_048, max: 8_192 };
/** F4, as every program makes it. Smaller ones break with weak padding, larger ones only cost. */
const RSA_EXPONENT = { min: 65_537n, max: 0xffff_ffffn };
const CURVES: Readonly<Record<string, string>> = { prime256v1: 'P-256', secp384r1: 'P-384' };
const HASHES: ReadonlySet<string> = new Set(['SHA-256', 'SHA-384', 'SHA-512']);

/** Returns null for a key that is strong enough for a gate or an authority; else the cause. */
function weaknessOf(key: KeyObject): string | null {
  const { modulusLength, publicExponent, namedCurve } = key.asymmetricKeyDetails ?? {};
  switch (key.asymmetricKeyType) {
    case 'ed25519':
      return null;
    case 'ec':
      return CURVES[namedCurve ?? ''] === undefined ? `the curve ${namedCurve ?? '(unnamed)'} is not used here` : null;
    case 'rsa': {
      const bits = modulusLength ?? 0;
      if (bits < RSA_BITS.min || bits > RSA_BITS.max) return `an RSA key of ${bits} bits is not used here (${RSA_BITS.min} to ${RSA_BITS.max})`;
      const exponent = publicExponent ?? 0n;
      return exponent < RSA_EXPONENT.min || exponent > RSA_EXPONENT.max || exponent % 2n === 0n
        ? `an RSA key with the exponent ${exponent} is not used here (65537)`
        : null;
    }
    default:
      return `${key.asymmetricKeyType} keys are not used here`;
  }
}

function refuseWeak(request: x509.Pkcs10CertificateRequest): void {
  const why = weaknessOf(createPublicKey({ key: Buffer.from(request.publicKey.rawData), format: 'der', type: 'spki' }));
  if (why !== null) throw new WeakRequestError(`${why}: make a key of P-256, P-384, Ed25519, or RSA of ${RSA_BITS.min} bits or more`);
  const { name, hash } = request.signatureAlgorithm as { readonly name: string; readonly hash?: { readonly name: string } };
  if (name !== 'Ed25519' && !HASHES.has(hash?.name ?? '')) throw new WeakRequestError(`it is signed with ${hash?.name ?? name}: sign it with SHA-256`);
}

function readCertificate(file: string, setting = ''): x509.X509Certificate {
  try {
    return new x509.X509Certificate(readFileSync(file, 'utf8'));
  } catch (error) {
    throw new AuthorityError(`${setting}${file}: not a certificate in PEM (${(error as Error).message})`);
  }
}

/** The key's reader can make certificates for every gate: its owner may read it, and where root keeps it, the service's own group. */
function refuseOpenKey(file: string, setting: string): void {
  const { mode, uid, gid } = statSync(file);
  const service = process.getegid?.() ?? 0;
  // Root itself reads it for the broker's list; the group that root gave it to is the service's.
  const allowed = uid === 0 && gid !== 0 && (gid === service || service === 0) ? 0o640 : 0o600;
  if ((mode & 0o777 & ~allowed & 0o077) !== 0)
    throw new AuthorityError(`${setting}${file}: mode ${(mode & 0o777).toString(8)} lets others read the key: chmod ${allowed.toString(8)} ${file}`);
}

async function readKey(file: string, setting = ''): Promise<{ readonly key: CryptoKey; readonly algorithm: Algorithm }> {
  let algorithm: Algorithm;
  let der: Buffer;
  try {
    refuseOpenKey(file, setting);
    const key = createPrivateKey(readFileSync(file, 'utf8'));
    const weakness = key.asymmetricKeyType === 'rsa' ? weaknessOf(key) : null;
    if (weakness !== null) throw new Error(weakness);
    const curve = CURVES[key.asymmetricKeyDetails?.namedCurve ?? ''];
    if (key.asymmetricKeyType === 'rsa') algorithm = { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' };
    else if (curve !== undefined) algorithm = { name: 'ECDSA', namedCurve: curve, hash: curve === 'P-384' ? 'SHA-384' : 'SHA-256' };
    else throw new Error(`${key.asymmetricKeyType} keys are not used here: RSA, P-256 or P-384`);
    der = key.export({ type: 'pkcs8', format: 'der' });
  } catch (error) {
    if (error instanceof AuthorityError) throw error;
    throw new AuthorityError(`${setting}${file}: not a private key in PEM that can be used (${(error as Error).message})`);
  }
  return { key: (await webcrypto.subtle.importKey('pkcs8', new Uint8Array(der), algorithm, false, ['sign'])) as CryptoKey, algorithm };
}

const CURVE = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
type KeyPair = { readonly publicKey: CryptoKey; readonly privateKey: CryptoKey };
const newKeys = () => webcrypto.subtle.generateKey(CURVE, true, ['sign', 'verify']) as Promise<KeyPair>;
const keyPem = async ({ privateKey }: KeyPair) => `${x509.PemConverter.encode(await webcrypto.subtle.exportKey('pkcs8', privateKey), 'PRIVATE KEY')}\n`;

interface Issuer {
  readonly certificate: x509.X509Certificate;
  readonly key: CryptoKey;
  readonly algorithm: Algorithm;
}

/**
 * Writes the files of a first installation's TLS into `folder`: an authority for gates and broker (gates-ca), one for the cloud (cloud-ca), the
 * server's certificate for `hosts` (broker.crt, for the broker and the proxy), the cloud's own (cloud.crt; ingest.crt for programs that only
 * ingest), and the gates' list of revoked certificates, empty (gates.crl). Keys are their owner's alone (600). Existing authorities and lists are
 * kept; certificates are made anew, so that this renews them as well. Returns the files that it wrote. Throws AuthorityError for an invalid
 * existing authority.
 */
export async function writeCertificates(folder: string, hosts: readonly string[]): Promise<readonly string[]> {
  x509.cryptoProvider.set(webcrypto as Crypto);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const written: string[] = [];
  const put = (name: string, text: string) => {
    const path = join(folder, name);
    replaceDurableFile(path, text.endsWith('\n') ? text : `${text}\n`, name.endsWith('.key') ? 0o600 : 0o644);
    written.push(path);
  };
  const gates = await issuerIn(folder, 'gates-ca', 'Stile gates', put);
  const cloud = await issuerIn(folder, 'cloud-ca', 'Stile cloud', put);
  const names = hosts.map((value) => ({ type: /^[\d.]+$|:/.test(value) ? ('ip' as const) : ('dns' as const), value }));
  await leaf(gates, 'broker', hosts[0] ?? 'localhost', [new x509.SubjectAlternativeNameExtension(names), usage('serverAuth')], put);
  await leaf(cloud, 'cloud', CLOUD_NAME, [usage('clientAuth')], put);
  await leaf(cloud, 'ingest', INGEST_NAME, [usage('clientAuth')], put);
  if (!existsSync(join(folder, 'gates.crl'))) {
    const list = await x509.X509CrlGenerator.create({
      issuer: gates.certificate.subject,
      thisUpdate: new Date(Date.now() - BACKDATED_MS),
      nextUpdate: gates.certificate.notAfter,
      entries: [],
      signingAlgorithm: gates.algorithm,
      signingKey: gates.key,
    });
    put('gates.crl', x509.PemConverter.encode(list.rawData, 'X509 CRL'));
  }
  return written;
}

export interface RevocationList {
  readonly count: number;
  readonly thisUpdate: Date;
  readonly nextUpdate: Date;
  /** Of the revoked certificates; hexadecimal, in lower case. */
  readonly serials: ReadonlySet<string>;
}

/** Reads a list of revoked certificates in PEM: which, and when it ends. null: it is none. */
export function revocationList(pem: string): RevocationList | null {
  try {
    const { entries, thisUpdate, nextUpdate } = new x509.X509Crl(pem);
    const serials = new Set(entries.map(({ serialNumber }) => serialNumber.toLowerCase()));
    return nextUpdate === undefined ? null : { count: entries.length, thisUpdate, nextUpdate, serials };
  } catch {
    return null;
  }
}

const usage = (what: 'serverAuth' | 'clientAuth') => new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage[what]]);

/** Throws AuthorityError for a file that is no key. */
async function pairOf(file: string): Promise<KeyPair> {
  const { key, algorithm } = await readKey(file);
  const spki = createPublicKey(readFileSync(file)).export({ type: 'spki', format: 'der' });
  return { privateKey: key, publicKey: await webcrypto.subtle.importKey('spki', spki, algorithm as webcrypto.EcKeyImportParams, true, ['verify']) };
}

async function issuerIn(folder: string, name: string, commonName: string, put: (name: string, text: string) => void): Promise<Issuer> {
  const [cert, key] = [join(folder, `${name}.crt`), join(folder, `${name}.key`)];
  if (!existsSync(cert)) {
    // A key alone was left by a full disk on an earlier try: its certificate is made now.
    const keys = existsSync(key) ? await pairOf(key) : await newKeys();
    const certificate = await x509.X509CertificateGenerator.createSelfSigned({
      name: `CN=${commonName}`,
      keys,
      signingAlgorithm: CURVE,
      notBefore: new Date(Date.now() - BACKDATED_MS),
      notAfter: new Date(Date.now() + AUTHORITY_DAYS * DAY_MS),
      extensions: [
        new x509.BasicConstraintsExtension(true, 0, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      ],
    });
    // The key first: a certificate without its key would count as an existing authority.
    if (!existsSync(key)) put(`${name}.key`, await keyPem(keys));
    put(`${name}.crt`, certificate.toString('pem'));
  }
  return { certificate: readCertificate(cert), ...(await readKey(key)) };
}

async function leaf(issuer: Issuer, name: string, commonName: string, extensions: readonly x509.Extension[], put: (name: string, text: string) => void) {
  const keys = await newKeys();
  const certificate = await x509.X509CertificateGenerator.create({
    subject: [{ CN: [commonName] }],
    issuer: issuer.certificate.subject,
    publicKey: keys.publicKey,
    signingKey: issuer.key,
    signingAlgorithm: issuer.algorithm,
    notBefore: new Date(Date.now() - BACKDATED_MS),
    notAfter: new Date(Math.min(Date.now() + CERTIFICATE_DAYS * DAY_MS, issuer.certificate.notAfter.getTime())),
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      ...extensions,
    ],
  });
  put(`${name}.key`, await keyPem(keys));
  put(`${name}.crt`, certificate.toString('pem'));
}
