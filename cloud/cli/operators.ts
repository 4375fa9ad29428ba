/** Runs `operator`, `keys`, `enroll`, `certificates`, `broker-acl`: operators' tokens, and the keys and certificates of gates and cloud. */
import { ActorId } from '../../contract/ids.ts';
import { writeSafeFile } from '../../runtime/safe-file.ts';
import { sqlState } from '../db/database.ts';
import { newEnrolmentToken, newToken, OPERATOR_TOKEN_PREFIX } from '../devices/assignment.ts';
import { AuthorityError, writeCertificates } from '../devices/certificates.ts';
import { openRegisteredSigner } from '../manifest/signing-key-registry.ts';
import { aclFile } from '../mqtt/broker-acl.ts';
import { CliError, EXIT, type Session, type Terminal } from './context.ts';

/** Life of an unused enrolment token, in hours. */
const ENROLMENT_TOKEN_HOURS = 72;

export interface OperatorOptions {
  readonly actor?: string;
  readonly anyActor?: boolean;
  readonly days?: number;
  readonly tokenFile?: string;
  readonly json?: boolean;
}

/** Gives a person (or a service) a token for the operators' calls; shown once. */
export async function operatorAdd(session: Session, name: string, options: OperatorOptions): Promise<void> {
  const actor = options.anyActor === true ? null : (options.actor ?? name);
  if (actor !== null && !ActorId.safeParse(actor).success)
    throw new CliError(
      EXIT.usage,
      `${JSON.stringify(actor)} is not a staff id: 1 to 64 letters, digits or . _ : @ - (never a person's name); give one with --actor, or --any-actor for a service`,
    );
  const tenantId = await session.tenant(true);
  const { token, sha256 } = newToken(OPERATOR_TOKEN_PREFIX);
  try {
    // In one transaction: an unwritable token belongs to nobody.
    await session.database.withTenant(tenantId, async (client) => {
      await client.query(
        'INSERT INTO operator_tokens (tenant_id, token_sha256, name, actor, expires_at) VALUES ($1, $2, $3, $4, now() + make_interval(days => $5))',
        [tenantId, sha256, name, actor, options.days ?? 365],
      );
      if (options.tokenFile !== undefined) writeSafeFile(options.tokenFile, `${token}\n`, { mode: 0o600 });
    });
  } catch (error) {
    if (sqlState(error) === '23505')
      throw new CliError(EXIT.failed, `there is an operator ${name} already: stile-cloud operator revoke ${name}, or choose another name`);
    throw error;
  }
  if (options.tokenFile !== undefined) session.terminal.err(`the token of ${name} is in ${options.tokenFile}\n`);
  else if (options.json === true) session.terminal.out(`${JSON.stringify({ name, actor, token })}\n`);
  else {
    session.terminal.err(`the token of ${name}, shown this once:\n`);
    session.terminal.out(`${token}\n`);
  }
}

export async function operatorList(session: Session, options: { readonly json?: boolean }): Promise<void> {
  const tenantId = await session.tenant();
  const { rows } = await session.database.withTenant(tenantId, (client) =>
    client.query<{ name: string; actor: string | null; created_at: Date; expires_at: Date | null; revoked_at: Date | null }>(
      'SELECT name, actor, created_at, expires_at, revoked_at FROM operator_tokens ORDER BY name',
    ),
  );
  if (options.json === true) session.terminal.out(`${JSON.stringify(rows, null, 2)}\n`);
  else
    for (const row of rows)
      session.terminal.out(
        `${row.name}  acts for ${row.actor ?? 'anyone'}  ${row.revoked_at === null ? `until ${row.expires_at?.toISOString() ?? 'revoked'}` : 'revoked'}\n`,
      );
}

export async function operatorRevoke(session: Session, name: string): Promise<void> {
  const tenantId = await session.tenant();
  const gone = await session.database.withTenant(tenantId, (client) => client.query('DELETE FROM operator_tokens WHERE name = $1', [name]));
  if (gone.rowCount === 0) throw new CliError(EXIT.failed, `there is no operator ${name}: stile-cloud operator list`);
  session.terminal.out(`the token of ${name} opens nothing any more\n`);
}

/** Prints the public keys that gates pin, as their key file: {"keys": [...]}. Makes the signing key where this installation has none. */
export async function keys(session: Session): Promise<void> {
  const { keys: all, created } = await openRegisteredSigner(session.database, session.config.signingKeyFile);
  if (created) session.terminal.err(`made the signing key ${session.config.signingKeyFile}: keep a copy in a safe place, gates trust manifests by it alone\n`);
  session.terminal.out(`${JSON.stringify({ keys: all }, null, 2)}\n`);
}

/** Makes a one-use token that gives a gate its certificate at POST /enroll. */
export async function enrolToken(session: Session, gate: string, options: { readonly hours?: number; readonly json?: boolean }): Promise<void> {
  const tenantId = await session.tenant();
  const hours = options.hours ?? ENROLMENT_TOKEN_HOURS;
  const made = await session.database.withTenant(tenantId, (client) => newEnrolmentToken(client, tenantId, gate, hours));
  if (made === null) throw new CliError(EXIT.failed, `there is no gate ${gate}: stile-cloud gate add ${gate}`);
  const { token } = made;
  if (made.revoked) session.terminal.err(`${gate} is revoked: whoever shows this token brings it back\n`);
  if (options.json === true) session.terminal.out(`${JSON.stringify({ gate, token })}\n`);
  else {
    session.terminal.err(`for ${gate}, once, within ${hours} h; tokens before it are good no more:\n`);
    session.terminal.out(`${token}\n`);
  }
}

/** A name or an address alone: what a certificate names and gates call. */
export const HOST_NAME = /^(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*)$/;

/** Makes the certificates of a first installation. The server itself is always among its names: the cloud reaches the broker there. */
export async function certificates(terminal: Terminal, folder: string, hosts: readonly string[]): Promise<void> {
  const strange = hosts.find((host) => !HOST_NAME.test(host));
  if (strange !== undefined)
    throw new CliError(EXIT.usage, `--host ${JSON.stringify(strange)}: give a name or an address alone, such as venue.example or 192.168.1.10`);
  try {
    const written = await writeCertificates(folder, [...new Set([...hosts, 'localhost', '127.0.0.1'])]);
    terminal.out(written.map((file) => `${file}\n`).join(''));
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (error instanceof AuthorityError) throw new CliError(EXIT.badConfig, `${message}; nothing of it was replaced`);
    throw new CliError(EXIT.failed, `${folder} cannot be written: ${code ?? message}`);
  }
}

/**
 * Writes the broker's ACL file, from enrolment: every gate of every tenant writes its own topics and reads its own inbox and its site's ledgers. A
 * file is replaced in one step, so that the broker never reads half of it, and keeps its owner and mode. A new file is readable by all: it holds no
 * secret, and Mosquitto reads it as a user of its own.
 */
export async function brokerAcl(session: Session, options: { readonly out?: string }): Promise<void> {
  const { rows } = await session.database.withoutTenant((client) =>
    client.query<{ name: string; revoked: boolean }>('SELECT name, revoked FROM broker_devices()'),
  );
  const text = aclFile(rows.map(({ name, revoked }) => ({ gate: name, revoked })));
  if (options.out === undefined) {
    session.terminal.out(text);
    return;
  }
  writeSafeFile(options.out, text, { mode: 0o644, keep: true });
  session.terminal.err(`${rows.length} gates are in ${options.out}; have the broker read it: systemctl reload mosquitto\n`);
}
