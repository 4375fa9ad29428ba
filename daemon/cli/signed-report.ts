/** Signs reports with the key of the gate's certificate, and verifies them. */
import { createPrivateKey, type KeyObject, sign, verify, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { signedText } from '../../contract/hash-chain.ts';
import type { Config } from '../config/load.ts';

/** Signature of a report. `certificate` and `signature` are null when it is not signed; `unsigned_because` gives the cause. */
export interface Signed {
  readonly certificate: string | null;
  readonly unsigned_because: string | null;
  /** Base64 over the RFC 8785 bytes of everything else. SHA-256 with EC and RSA keys. */
  readonly signature: string | null;
}

const digestOf = (key: KeyObject): string | null => (key.asymmetricKeyType === 'ed25519' || key.asymmetricKeyType === 'ed448' ? null : 'sha256');

/** Signs. Never throws: without a certificate or a readable key it returns an unsigned report with the cause. */
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

/** Verifies. `ca`: PEM of the installation's authority, if known. Returns the fault; null: the named gate has signed the report. */
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
