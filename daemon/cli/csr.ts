/** Creates a key and a certificate signing request. The only file of the daemon that imports @peculiar/x509 (node:crypto creates no CSRs); loaded by `enroll` alone. */
import { webcrypto } from 'node:crypto';
// The x509 library needs it before it is loaded.
import 'reflect-metadata';
import * as x509 from '@peculiar/x509';

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;

/** Returns key and CSR in PEM. The authority takes the gate's name from the token, not from the CSR. */
export async function newSigningRequest(commonName: string): Promise<{ readonly key: string; readonly csr: string }> {
  x509.cryptoProvider.set(webcrypto as Crypto);
  const keys = (await webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify'])) as webcrypto.CryptoKeyPair;
  const name = new x509.Name([{ CN: [commonName] }]).toString();
  const request = await x509.Pkcs10CertificateRequestGenerator.create({ name, keys, signingAlgorithm: ALGORITHM });
  return { key: x509.PemConverter.encode(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey), 'PRIVATE KEY'), csr: request.toString('pem') };
}
