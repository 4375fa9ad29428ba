/** Signs gates' certificates with the installation's authority. The only file of the cloud that imports @peculiar/x509. */
import { createHash, createPrivateKey, webcrypto } from 'node:crypto';
import { readFileSync } from 'node:fs';
// The x509 library needs it before it is loaded.
import 'reflect-metadata';
import * as x509 from '@peculiar/x509';

const DAY_MS = 86_400_000;
/** How long a gate's certificate lasts. `health` and `info` tell when it ends; a new one is a new enrolment. */
const CERTIFICATE_DAYS = 825;
/** Before now, for a gate whose clock is somewhat behind. */
const BACKDATED_MS = DAY_MS;

export interface Authority {
  /** PEM: what gates trust. */
  readonly ca: string;
  /**
   * A certificate for exactly this gate, whatever subject the request names. Null: the request is no signing
   * request, or not signed by the key that it names.
   */
  sign(csr: string, gate: string): Promise<{ readonly certificate: string; readonly sha256: Buffer; readonly notAfter: Date } | null>;
}

/** The files are not what they should be; says which and how to mend it. */
export class AuthorityError extends Error {
  override name = 'AuthorityError';
}

type Algorithm = { readonly name: string; readonly namedCurve?: string; readonly hash: string };

/** Reads the authority's certificate and key. Throws AuthorityError. */
export async function openAuthority(files: { readonly cert: string; readonly key: string }): Promise<Authority> {
  x509.cryptoProvider.set(webcrypto as Crypto);
  const issuer = readCertificate(files.cert);
  const { key, algorithm } = await readKey(files.key);
  if (issuer.getExtension(x509.BasicConstraintsExtension)?.ca !== true)
    throw new AuthorityError(`STILE_CA_CERT ${files.cert}: not the certificate of an authority (CA:TRUE)`);
  const ca = issuer.toString('pem');
  return {
    ca,
    async sign(csr, gate) {
      let request: x509.Pkcs10CertificateRequest;
      try {
        request = new x509.Pkcs10CertificateRequest(csr);
        if (!(await request.verify())) return null;
      } catch {
        return null;
      }
      const notAfter = new Date(Math.min(Date.now() + CERTIFICATE_DAYS * DAY_MS, issuer.notAfter.getTime()));
      const certificate = await x509.X509CertificateGenerator.create({
        subject: [{ CN: [gate] }],
        issuer: issuer.subject,
        publicKey: request.publicKey,
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
      return { certificate: certificate.toString('pem'), sha256: createHash('sha256').update(Buffer.from(certificate.rawData)).digest(), notAfter };
    },
  };
}

function readCertificate(file: string): x509.X509Certificate {
  try {
    return new x509.X509Certificate(readFileSync(file, 'utf8'));
  } catch (error) {
    throw new AuthorityError(`STILE_CA_CERT ${file}: not a certificate in PEM (${(error as Error).message})`);
  }
}

const CURVES: Readonly<Record<string, string>> = { prime256v1: 'P-256', secp384r1: 'P-384' };

async function readKey(file: string): Promise<{ readonly key: CryptoKey; readonly algorithm: Algorithm }> {
  let algorithm: Algorithm;
  let der: Buffer;
  try {
    const key = createPrivateKey(readFileSync(file, 'utf8'));
    const curve = CURVES[key.asymmetricKeyDetails?.namedCurve ?? ''];
    if (key.asymmetricKeyType === 'rsa') algorithm = { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' };
    else if (curve !== undefined) algorithm = { name: 'ECDSA', namedCurve: curve, hash: curve === 'P-384' ? 'SHA-384' : 'SHA-256' };
    else throw new Error(`${key.asymmetricKeyType} keys are not used here: RSA, P-256 or P-384`);
    der = key.export({ type: 'pkcs8', format: 'der' });
  } catch (error) {
    throw new AuthorityError(`STILE_CA_KEY ${file}: not a private key in PEM that can be used (${(error as Error).message})`);
  }
  return { key: (await webcrypto.subtle.importKey('pkcs8', new Uint8Array(der), algorithm, false, ['sign'])) as CryptoKey, algorithm };
}
