/** Reports that a gate signs with the key of its certificate, and how anyone checks them later. */
import { createPrivateKey, type KeyObject, sign, verify, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { signedText } from '../../contract/hash-chain.ts';
import type { Config } from '../config/load.ts';

/** `certificate` and `signature` are null where the report is not signed; `unsigned_because` says why. */
export interface Signed {
  readonly certificate: string | null;
  readonly unsigned_because: string | null;
  /** Base64 over the RFC 8785 bytes of everything else. SHA-256 with EC and RSA keys. */
  readonly signature: string | null;
}

const digestOf = (key: KeyObject): string | null => (key.asymmetricKeyType === 'ed25519' || key.asymmetricKeyType === 'ed448' ? null : 'sha256');

/** Never throws: a gate without certificate or without a readable key gives an unsigned report that says so. */
export function signReport<T extends object>(report: T, mqtt: Pick<NonNullable<Config['mqtt']>, 'cert' | 'key'> | null): T & Signed {
  const unsigned = (why: string) => ({ ...report, certificate: null, unsigned_because: why, signature: null });
  if (mqtt === null || mqtt.key === null || mqtt.cert === null) return unsigned('this gate has no certificate (mqtt.cert, mqtt.key): enrol it first');
  try {
    const key = createPrivateKey(readFileSync(mqtt.key));
    const payload = { ...report, certificate: readFileSync(mqtt.cert, 'utf8'), unsigned_because: null };
    return { ...payload, signature: sign(digestOf(key), Buffer.from(signedText(payload)), key).toString('base64') };
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    return unsigned(`the gate's key could not be used (${code ?? message}): run this with sudo`);
  }
}

/** `ca`: PEM of the installation's authority, where it is known. Answers what is wrong; null: the gate that it names has signed it. */
export function checkReport(report: Readonly<Record<string, unknown>>, ca: string | null): string | null {
  const { certificate: pem, signature, gate } = report;
  if (typeof signature !== 'string' || typeof pem !== 'string')
    return `it is not signed${typeof report.unsigned_because === 'string' ? `: ${report.unsigned_because}` : ''}`;
  let certificate: X509Certificate;
  try {
    certificate = new X509Certificate(pem);
  } catch {
    return 'its certificate cannot be read';
  }
  const key = certificate.publicKey;
  if (!verify(digestOf(key), Buffer.from(signedText(report)), key, Buffer.from(signature, 'base64'))) return 'it was changed after it was signed';
  if (/^CN=(.*)$/m.exec(certificate.subject)?.[1] !== gate) return `it was signed by another than ${String(gate)}: ${certificate.subject}`;
  if (ca !== null && !certificate.verify(new X509Certificate(ca).publicKey)) return "its certificate is not of this installation's authority";
  return null;
}
