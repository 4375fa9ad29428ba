/** Runs `pki`, `crl` and `end-sessions`: the certificates of this installation, which of them the broker refuses, and whom it still serves. */
import { X509Certificate } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { GateName } from '../../contract/ids.ts';
import { writeSafeFile } from '../../runtime/safe-file.ts';
import type { CloudConfig } from '../config.ts';
import { listRevoked, markSessionsEnded, type RevokedRecord } from '../devices/certificate-records.ts';
import { type Authority, openAuthority, revocationList } from '../devices/certificates.ts';
import { takeOver } from '../mqtt/client.ts';
import { CliError, EXIT, type Session } from './context.ts';
import { table, utc } from './gates.ts';

/** Where `init` keeps the installation's certificates. */
export const PKI_FOLDER = '/etc/stile/pki';
const DAY_MS = 86_400_000;

async function authorityOf({ ca }: CloudConfig): Promise<Authority> {
  if (ca === null) throw new CliError(EXIT.badConfig, 'STILE_CA_CERT and STILE_CA_KEY are not set: this installation signs no certificates of gates');
  return openAuthority(ca);
}

/** Makes the list of revoked certificates, for the broker. Every call makes a new one, so that its end moves on. */
export async function crlCommand(session: Session, options: { readonly out?: string }): Promise<void> {
  const authority = await authorityOf(session.config);
  const revoked = await listRevoked(session.database);
  const before = options.out !== undefined && existsSync(options.out) ? readFileSync(options.out, 'utf8') : null;
  const text = await authority.revocationList(revoked, before);
  if (options.out === undefined) return session.terminal.out(text);
  // It holds no secret, and Mosquitto reads it as a user of its own.
  writeSafeFile(options.out, text, { mode: 0o644, keep: true });
  session.terminal.err(`${revoked.length} revoked certificates are in ${options.out}; have the broker read it: systemctl reload mosquitto\n`);
}

/**
 * Ends the connections that revoked certificates still have: the broker asks for a list of revoked certificates only while a client connects. Takes
 * each gate's name over for a moment. `crl`: the list that the broker has read; a certificate that it does not name could come straight back.
 */
export async function endSessions(session: Session, options: { readonly crl: string; readonly broker?: string }): Promise<void> {
  const { config, database, terminal } = session;
  const url = options.broker ?? gatesListener(config);
  if (url === null) throw new CliError(EXIT.badConfig, 'STILE_MQTT_URL names no broker with TLS: say the listener of the gates with --broker mqtts://…');
  const read = existsSync(options.crl) ? revocationList(readFileSync(options.crl, 'utf8')) : null;
  if (read === null) throw new CliError(EXIT.failed, `--crl ${options.crl}: no list of revoked certificates; stile-cloud crl --out makes it`);
  const due = (await listRevoked(database)).filter(({ serial, sessionEnded }) => !sessionEnded && read.serials.has(serial));
  const authority = await authorityOf(config);
  const ca = readFileSync(config.mqtt?.ca ?? (config.ca as { cert: string }).cert);
  const ended: RevokedRecord[] = [];
  const failed: string[] = [];
  for (const gate of new Set(due.map((record) => record.gate))) {
    if (!GateName.safeParse(gate).success) continue;
    try {
      const { certificate, key } = await authority.shortIdentity(gate);
      await takeOver(gate, { url, ca, cert: certificate, key });
      ended.push(...due.filter((record) => record.gate === gate));
    } catch (error) {
      failed.push(`${gate}: ${(error as Error).message}`);
    }
  }
  await markSessionsEnded(database, ended);
  terminal.err(`${new Set(ended.map(({ gate }) => gate)).size} connections of revoked certificates were ended\n`);
  if (failed.length > 0) throw new CliError(EXIT.tryAgain, `ending connections at ${url} failed for ${failed.length}, first ${failed[0]}`);
}

/** Returns the gates' listener of the broker that this service uses; null where the broker has no TLS. */
function gatesListener({ mqtt, gateBrokerUrl }: CloudConfig): string | null {
  if (mqtt === null || !mqtt.url.startsWith('mqtts:')) return gateBrokerUrl?.startsWith('mqtts:') === true ? gateBrokerUrl : null;
  const url = new URL(mqtt.url);
  url.port = (gateBrokerUrl === null ? '' : new URL(gateBrokerUrl).port) || '8883';
  return url.href.replace(/\/$/, '');
}

interface Shown {
  readonly name: string;
  readonly of: string;
  readonly ends: string;
  readonly days: number;
}

/** Shows every certificate and its end, the nearest first: the files of this server, and those that gates have. */
export async function pkiShow(session: Session, options: { readonly json?: boolean; readonly folder?: string }): Promise<void> {
  const folder = options.folder ?? PKI_FOLDER;
  const shown = (name: string, of: string, end: Date): Shown => ({
    name,
    of,
    ends: end.toISOString(),
    days: Math.floor((end.getTime() - Date.now()) / DAY_MS),
  });
  const tenantId = await session.tenant();
  const { rows } = await session.database.withTenant(tenantId, (client) =>
    client.query<{ device: string; serial: string; not_after: Date }>(
      'SELECT device, serial, not_after FROM gate_certificates WHERE revoked_at IS NULL ORDER BY not_after, device',
    ),
  );
  const all = [
    ...filesIn(folder, session.config).map(([file, end]) => shown(file, 'this server', end)),
    ...rows.map((row) => shown(row.device, `gate, serial ${row.serial}`, row.not_after)),
  ].sort((a, b) => a.days - b.days);
  if (options.json === true) return session.terminal.out(`${JSON.stringify(all, null, 2)}\n`);
  session.terminal.out(
    table(
      ['certificate', 'of', 'ends', 'days'],
      all.map(({ name, of, ends, days }) => [name, of, utc(ends), String(days)]),
    ),
  );
}

/** Returns the certificates of this server that can be read, and their ends. */
function filesIn(folder: string, config: CloudConfig): (readonly [string, Date])[] {
  let inFolder: string[] = [];
  try {
    inFolder = readdirSync(folder).flatMap((name) => (name.endsWith('.crt') ? [join(folder, name)] : []));
  } catch {
    // The service's user may not look there; root may.
  }
  const files = new Set([...inFolder, config.ca?.cert, config.mqtt?.cert, config.mqtt?.ca].filter((file) => typeof file === 'string'));
  return [...files].flatMap((file) => {
    try {
      return [[file, new Date(new X509Certificate(readFileSync(file)).validTo)] as const];
    } catch {
      return [];
    }
  });
}
