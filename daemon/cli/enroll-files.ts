/** The files of an enrolment: checked before the token is used, written together after it. */
import { X509Certificate } from 'node:crypto';
import { accessSync, chownSync, constants, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openSafeFile, type SafeFile } from '../../runtime/safe-file.ts';
import { groupId } from '../platform/groups.ts';
import type { Answer, Wanted } from './enroll-request.ts';
import { CliError, EXIT } from './exit-codes.ts';

/** Remaining life of a certificate, in ms, above which enroll needs --force. */
const RENEW_MS = 30 * 86_400_000;
/** Group of the service, which reads these files. */
export const GROUP = 'stile-gate';

/** Checks before the token is used that the files are writable and that no lasting certificate is lost. */
export function prepare(folder: string, force: boolean): void {
  const certificate = join(folder, 'tls/gate.pem');
  if (!force && existsSync(certificate)) {
    const left = Date.parse(new X509Certificate(readFileSync(certificate)).validTo) - Date.now();
    if (left > RENEW_MS)
      throw new CliError(
        EXIT.failed,
        `this gate has a certificate already, for ${Math.floor(left / 86_400_000)} days more (${certificate})`,
        '--force replaces it',
      );
  }
  try {
    for (const part of ['tls', 'conf.d']) {
      mkdirSync(join(folder, part), { recursive: true, mode: 0o750 });
      accessSync(join(folder, part), constants.W_OK);
    }
    accessSync(folder, constants.W_OK);
  } catch (error) {
    throw new CliError(EXIT.failed, `${folder} may not be written (${(error as NodeJS.ErrnoException).code})`, 'use sudo; the token was not used');
  }
}

/** Writes new files beside the old ones, then replaces them. Returns their paths. */
export function place(folder: string, { cloud, broker, ca, gate: configured }: Wanted & { readonly broker: string }, answer: Answer, key: string): string[] {
  const plain = broker.startsWith('mqtt:');
  const quoted = (text: string) => JSON.stringify(text);
  const token = typeof answer.token === 'string' ? answer.token : null;
  const lines = [
    '# Written by stile-gate enroll; the next enrolment writes it anew.',
    ...(configured === null ? [`gate: ${quoted(answer.gate)}`] : []),
    'mqtt:',
    `  url: ${quoted(broker)}`,
    ...(plain ? [] : ['  ca: ../tls/ca.pem', '  cert: ../tls/gate.pem', '  key: ../tls/gate.key']),
    'cloud:',
    `  url: ${quoted(cloud)}`,
    ...(ca === null ? [] : ['  ca: ../tls/cloud-ca.pem']),
    ...(token === null ? [] : ['  token_file: ../cloud-token']),
    '  keys: ../keys.json',
    '',
  ];
  const files: readonly (readonly [string, string])[] = [
    ['tls/gate.key', key],
    ['tls/gate.pem', answer.certificate],
    ['tls/ca.pem', answer.ca],
    ...(ca === null ? [] : [['tls/cloud-ca.pem', ca] as const]),
    ['keys.json', `${JSON.stringify({ keys: answer.keys }, null, 2)}\n`],
    ...(token === null ? [] : [['cloud-token', `${token}\n`] as const]),
    ['conf.d/50-enrolment.yaml', lines.join('\n')],
  ];
  const gid = process.getuid?.() === 0 ? groupId(GROUP) : null;
  // The gate reads these files and changes none; other users cannot read them.
  const access = gid === null ? { mode: 0o600 } : { mode: 0o640, owner: { uid: 0, gid } };
  const begun: SafeFile[] = [];
  try {
    for (const [name, text] of files) {
      const file = openSafeFile(join(folder, name), access);
      begun.push(file);
      writeFileSync(file.fd, text.endsWith('\n') ? text : `${text}\n`);
    }
    if (gid !== null) for (const part of ['tls', 'conf.d']) chownSync(join(folder, part), 0, gid);
    for (const file of begun) file.commit();
  } finally {
    for (const file of begun) file.abandon();
  }
  return files.map(([name]) => join(folder, name));
}
