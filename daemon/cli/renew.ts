/**
 * Renews this gate's certificate before it ends: `stile-renew.timer` runs it daily. Does nothing until it is due; the cloud refuses while an event runs.
 * The running gate reads the new files when it connects next; the old certificate stays good until it ends.
 */
import { createPrivateKey, sign, X509Certificate } from 'node:crypto';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { RenewResponse } from '../../contract/http.ts';
import { renewalDueMs } from '../../rules/renewal.ts';
import { openSafeFile, writeSafeFile } from '../../runtime/safe-file.ts';
import { formatConfigErrors, loadConfig } from '../config/load.ts';
import { causeOf, networkHint } from './doctor-network.ts';
import { postToCloud } from './enroll-request.ts';
import { CliError, EXIT, print } from './exit-codes.ts';
import type { CommonOptions } from './options.ts';

/** Certificate and key together, durable before either is replaced: a power cut between the two is completed by the next run. */
const PENDING = '.renewed';

interface Places {
  readonly cert: string;
  readonly key: string;
}

export async function renew(options: CommonOptions & { readonly now?: boolean }): Promise<void> {
  const loaded = loadConfig(options.config, process.env, { skipFiles: true });
  if (!loaded.ok) throw new CliError(EXIT.badConfig, formatConfigErrors(loaded.errors).trimEnd());
  const { mqtt, cloud, gate } = loaded.config;
  if (mqtt?.cert == null || mqtt.key === null || cloud?.tokenFile == null)
    return print(options.json, { renewed: false, why: 'no certificate' }, () => 'this gate has no certificate and token of a cloud: there is nothing to renew');
  const places: Places = { cert: mqtt.cert, key: mqtt.key };
  complete(places);
  const old = readFileSync(places.cert, 'utf8');
  const { validFrom, validTo } = new X509Certificate(old);
  const dueMs = renewalDueMs({ gate, beginsMs: Date.parse(validFrom), endsMs: Date.parse(validTo) });
  if (Date.now() < dueMs && options.now !== true)
    return print(
      options.json,
      { renewed: false, due: new Date(dueMs).toISOString() },
      () => `the certificate is due on ${new Date(dueMs).toISOString().split('T')[0]}`,
    );
  const { newSigningRequest } = await import('./csr.ts');
  const { key, csr } = await newSigningRequest(gate);
  const oldKey = createPrivateKey(readFileSync(places.key));
  const proof = sign(oldKey.asymmetricKeyType === 'ed25519' ? null : 'sha256', Buffer.from(csr, 'utf8'), oldKey).toString('base64');
  const answer = await ask(cloud.url, {
    body: JSON.stringify({ csr, certificate: old, proof }),
    token: readFileSync(cloud.tokenFile, 'utf8').trim(),
    ca: cloud.ca === null ? null : readFileSync(cloud.ca, 'utf8'),
    system: true,
  });
  const certificate = new X509Certificate(answer.certificate);
  if (answer.gate !== gate || !certificate.checkPrivateKey(createPrivateKey(key)))
    throw new CliError(EXIT.failed, `the cloud's certificate is for ${answer.gate}, or for another key`, 'nothing was changed here');
  writeSafeFile(`${places.cert}${PENDING}`, `${answer.certificate.trimEnd()}\n${key.trimEnd()}\n`, { mode: 0o600 });
  complete(places);
  print(
    options.json,
    { renewed: true, not_after: answer.not_after },
    () => `renewed until ${answer.not_after.split('T')[0]}; it holds from the next connection on`,
  );
}

/** Puts a renewal in place that is on the disk whole; without one, does nothing. */
function complete({ cert, key }: Places): void {
  const pending = `${cert}${PENDING}`;
  if (!existsSync(pending)) return;
  const parts = readFileSync(pending, 'utf8').match(/-----BEGIN [^-]+-----[^-]+-----END [^-]+-----\n/g) ?? [];
  const [newCert, newKey] = [parts.find((part) => part.includes('CERTIFICATE')), parts.find((part) => part.includes('PRIVATE KEY'))];
  if (newCert === undefined || newKey === undefined) return rmSync(pending);
  const files = [openSafeFile(key, { mode: 0o600, keep: true }), openSafeFile(cert, { mode: 0o644, keep: true })] as const;
  try {
    writeFileSync(files[0].fd, newKey);
    writeFileSync(files[1].fd, newCert);
    for (const file of files) file.commit();
  } finally {
    for (const file of files) file.abandon();
  }
  rmSync(pending);
}

async function ask(cloud: string, post: Parameters<typeof postToCloud>[1]): Promise<ReturnType<typeof RenewResponse.parse>> {
  const answer = await postToCloud(new URL('enroll/renew', cloud.endsWith('/') ? cloud : `${cloud}/`), post).catch((error: unknown) => {
    const cause = causeOf(error);
    throw new CliError(EXIT.tryAgain, `${cloud} is not reached: ${cause}`, networkHint(cause));
  });
  let body: unknown = null;
  try {
    body = JSON.parse(answer.text);
  } catch {
    // Not an answer of the cloud: its status says enough.
  }
  const parsed = RenewResponse.safeParse(body);
  if (answer.status === 200 && parsed.success) return parsed.data;
  const { error, message } = (body ?? {}) as { error?: string; message?: string };
  const later = answer.status === 409 || answer.status === 429 || answer.status >= 500;
  throw new CliError(
    later ? EXIT.tryAgain : EXIT.failed,
    `the cloud does not renew${error === undefined ? '' : ` (${error})`}: ${message ?? `HTTP ${answer.status}`}`,
  );
}
