/** Runs `codes`: new codes, the keys that sign them, revocation, and sheets for trying gates. */
import { createHash } from 'node:crypto';
import { readFileSync, unlinkSync } from 'node:fs';
import { dirname, extname, join } from 'node:path';
import { ActorId, ExternalId, KeyId, TicketId } from '../../contract/ids.ts';
import { writeSafeFile } from '../../runtime/safe-file.ts';
import { addCodeKey, listCodeKeys, revokeCodeKey, spkiOf } from '../manifest/code-keys.ts';
import { CodeKeyError, openCodeKey } from '../tickets/codes/code-key-file.ts';
import { type IssuedCode, issueCodes } from '../tickets/codes/issue.ts';
import { drawSheet, MAX_SHEET_CODES, type SheetCode, type SheetFormat } from '../tickets/codes/qr-sheet.ts';
import { MAX_REVOKED_AT_ONCE, revokeCodes, type TakenBack } from '../tickets/codes/revoke.ts';
import { openTicketSource, SourceError } from '../tickets/import/import-source.ts';
import { CliError, EXIT, type Session } from './context.ts';
import { instant } from './events.ts';
import { waitUntilGatesNotified } from './wait-published.ts';

/** Returns the default file of a key's private half: beside the installation's signing key. */
const keyFileOf = (session: Session, eventId: string, keyId: string): string =>
  join(dirname(session.config.signingKeyFile), 'code-keys', eventId, `${keyId}.pem`);

export interface IssueCommandOptions {
  readonly count: number;
  readonly tier: string;
  readonly zone?: string;
  readonly units?: number;
  readonly maxScans?: number;
  readonly vip?: boolean;
  readonly validFrom?: string;
  readonly validUntil?: string;
  readonly signed?: boolean;
  readonly key?: string;
  readonly keyFile?: string;
  readonly out: string;
  readonly wait?: boolean;
}

/** The file is written before the tickets are committed, and removed where they are not: no ticket without its code, no code without its ticket. */
export async function issueCommand(session: Session, eventId: string, options: IssueCommandOptions): Promise<void> {
  for (const [name, value] of [
    ['--tier', options.tier],
    ['--zone', options.zone],
  ] as const)
    if (value !== undefined && !ExternalId.safeParse(value).success)
      throw new CliError(EXIT.usage, `${name} ${JSON.stringify(value)}: use 1 to 64 letters, digits or . _ : @ -`);
  if ((options.key !== undefined || options.keyFile !== undefined) && options.signed !== true)
    throw new CliError(EXIT.usage, '--key and --key-file are for --signed codes');
  const [validFrom, validUntil] = [instant('--valid-from', options.validFrom) ?? null, instant('--valid-until', options.validUntil) ?? null];
  if (options.signed === true && [validFrom, validUntil].some((time) => time !== null && Date.parse(time) % 1000 !== 0))
    throw new CliError(EXIT.usage, 'signed codes hold whole seconds: write --valid-from and --valid-until so');
  if (validFrom !== null && validUntil !== null && validFrom > validUntil) throw new CliError(EXIT.usage, '--valid-until is before --valid-from');
  const tenantId = await session.tenant();
  const signer = options.signed === true ? await signerOf(session, tenantId, eventId, options) : undefined;
  let written = false;
  try {
    const issued = await session.database.withTenant(tenantId, async (client) => {
      const codes = await issueCodes(client, tenantId, eventId, {
        count: options.count,
        tier: options.tier,
        zone: options.zone ?? null,
        units: options.units ?? 1,
        maxScans: options.maxScans ?? null,
        vip: options.vip ?? false,
        validFrom,
        validUntil,
        ...(signer === undefined ? {} : { signer }),
      });
      if (codes === null) throw new CliError(EXIT.failed, `there is no event ${eventId}: make it first with stile-cloud event put ${eventId}`);
      writeCodes(options.out, codes, options);
      written = true;
      return codes;
    });
    session.terminal.err(`${issued.length} codes are in ${options.out}: they stand nowhere else, and nobody can print them again\n`);
  } catch (error) {
    if (written) unlinkSync(options.out);
    throw error;
  }
  await waitUntilGatesNotified(session, tenantId, options.wait ?? true);
}

/** Never overwrites a file: it may hold the only copy of other codes. */
function writeCodes(path: string, codes: readonly IssuedCode[], { tier, zone }: IssueCommandOptions): void {
  const lines = codes.map(({ ticketId, code }) => `${ticketId},${code},${tier},${zone ?? ''}\n`);
  try {
    writeSafeFile(path, `ticket_id,code,tier,zone\n${lines.join('')}`, { mode: 0o600, fresh: true });
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    throw new CliError(
      EXIT.failed,
      code === 'EEXIST' ? `${path} is there already: name another file, nothing was issued` : `${path}: ${message}; nothing was issued`,
    );
  }
}

async function signerOf(session: Session, tenantId: string, eventId: string, { key, keyFile }: Pick<IssueCommandOptions, 'key' | 'keyFile'>) {
  const known = await session.database.withTenant(tenantId, (client) => listCodeKeys(client, eventId));
  const live = known.filter(({ use, revokedAt, notAfter }) => use === 'code' && revokedAt === null && (notAfter === null || notAfter.getTime() > Date.now()));
  const chosen = key === undefined ? (live.length === 1 ? live[0] : undefined) : live.find(({ keyId }) => keyId === key);
  if (chosen === undefined)
    throw new CliError(
      EXIT.failed,
      key !== undefined
        ? `${eventId} has no live key ${key}: stile-cloud codes keys list ${eventId}`
        : live.length === 0
          ? `${eventId} has no key for signed codes: stile-cloud codes keys add ${eventId} --key k1`
          : `${eventId} has several keys: choose with --key ${live.map(({ keyId }) => keyId).join(' or ')}`,
    );
  const file = keyFile ?? keyFileOf(session, eventId, chosen.keyId);
  const opened = openKey(file, false);
  if (opened.spki !== chosen.spki) throw new CliError(EXIT.failed, `${file} is not the key ${chosen.keyId} of ${eventId}: name its file with --key-file`);
  return { keyId: chosen.keyId, sign: opened.sign };
}

function openKey(file: string, create: boolean) {
  try {
    return openCodeKey(file, { create });
  } catch (error) {
    if (error instanceof CodeKeyError) throw new CliError(EXIT.failed, error.message);
    throw error;
  }
}

export interface AddKeyOptions {
  readonly key?: string;
  readonly keyFile?: string;
  readonly public?: string;
  readonly pretix?: string;
  readonly notAfter?: string;
  readonly wait?: boolean;
}

/** Adds an own key (made where its file is new), another issuer's public half, or pretix's. */
export async function keysAdd(session: Session, eventId: string, options: AddKeyOptions): Promise<void> {
  if ([options.keyFile, options.public, options.pretix].filter((file) => file !== undefined).length > 1)
    throw new CliError(EXIT.usage, 'choose one of --key-file, --public, --pretix');
  const tenantId = await session.tenant();
  const foreign = options.pretix ?? options.public;
  const use = options.pretix === undefined ? ('code' as const) : ('pretix' as const);
  let spki: string;
  let keyId = options.key;
  if (foreign !== undefined) {
    spki = publicKeyIn(foreign);
    keyId ??= `${use}-${createHash('sha256').update(spki).digest('hex').slice(0, 12)}`;
  } else {
    if (keyId === undefined || !KeyId.safeParse(keyId).success)
      throw new CliError(EXIT.usage, 'give the key a name that its codes carry, short: --key k1 (1 to 32 letters, digits, _ or -)');
    const exists = await session.database.withTenant(tenantId, (client) => client.query('SELECT 1 FROM events WHERE event_id = $1', [eventId]));
    if (exists.rowCount === 0) throw new CliError(EXIT.failed, `there is no event ${eventId}: make it first with stile-cloud event put ${eventId}`);
    const file = options.keyFile ?? keyFileOf(session, eventId, keyId);
    const opened = openKey(file, true);
    if (opened.created) session.terminal.err(`made ${file}: whoever has it can issue tickets; keep a copy in a safe place\n`);
    spki = opened.spki;
  }
  const named = keyId;
  const until = instant('--not-after', options.notAfter) ?? null;
  const notAfter = until === null ? null : new Date(until);
  const result = await session.database.withTenant(tenantId, (client) => addCodeKey(client, tenantId, eventId, { keyId: named, use, spki, notAfter }));
  if (!result.ok) throw new CliError(EXIT.failed, result.message);
  session.terminal.out(`${named}: ${result.changed ? `${eventId} takes codes that it signs` : 'is known already'}\n`);
  if (result.changed) await waitUntilGatesNotified(session, tenantId, options.wait ?? true);
}

function publicKeyIn(file: string): string {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    throw new CliError(EXIT.failed, `${file}: ${(error as Error).message}`);
  }
  const spki = spkiOf(text);
  if (spki === null)
    throw new CliError(EXIT.failed, `${file}: no Ed25519 public key; it may be PEM, or base64 of a PEM as pretix's settings show it, or of the DER`);
  return spki;
}

export async function keysList(session: Session, eventId: string, options: { readonly json?: boolean }): Promise<void> {
  const tenantId = await session.tenant();
  const all = await session.database.withTenant(tenantId, (client) => listCodeKeys(client, eventId));
  if (options.json === true) {
    session.terminal.out(`${JSON.stringify(all, null, 2)}\n`);
    return;
  }
  if (all.length === 0) session.terminal.err(`${eventId} has no keys for signed codes: stile-cloud codes keys add ${eventId} --key k1\n`);
  for (const { keyId, use, notAfter, revokedAt, createdAt } of all) {
    const state = revokedAt !== null ? `revoked ${revokedAt.toISOString()}` : notAfter === null ? 'live' : `live until ${notAfter.toISOString()}`;
    session.terminal.out(`${keyId}  ${use}  ${state}  since ${createdAt.toISOString()}\n`);
  }
}

export interface RevokeOptions {
  readonly actor: string;
  readonly reason: string;
  readonly wait?: boolean;
}

function checkActor(actor: string): void {
  if (!ActorId.safeParse(actor).success)
    throw new CliError(EXIT.usage, `--actor ${JSON.stringify(actor)} is not a staff id: 1 to 64 letters, digits or . _ : @ - (never a person's name)`);
}

export async function keysRevoke(session: Session, eventId: string, keyId: string, options: RevokeOptions): Promise<void> {
  checkActor(options.actor);
  const tenantId = await session.tenant();
  const result = await session.database.withTenant(tenantId, (client) => revokeCodeKey(client, tenantId, eventId, keyId, options));
  if (!result.ok) throw new CliError(EXIT.failed, result.message);
  session.terminal.out(`${keyId}: ${result.changed ? 'codes that it signed open nothing any more' : 'was revoked before'}\n`);
  if (result.changed) await waitUntilGatesNotified(session, tenantId, options.wait ?? true);
}

/** Revokes by ticket ids, or by a file of codes as `codes issue` writes it. */
export async function revokeCommand(
  session: Session,
  eventId: string,
  ids: readonly string[],
  options: RevokeOptions & { readonly file?: string },
): Promise<void> {
  checkActor(options.actor);
  const all: TakenBack[] = [
    ...ids.map((ticketId) => ({ ticketId })),
    ...(options.file === undefined ? [] : (await readCodes(options.file, MAX_REVOKED_AT_ONCE)).map(({ label, code }) => ({ ticketId: label, code }))),
  ];
  const wrong = all.find(({ ticketId }) => !TicketId.safeParse(ticketId).success);
  if (wrong !== undefined) throw new CliError(EXIT.usage, `${JSON.stringify(wrong.ticketId)} is not a ticket id`);
  if (all.length === 0 || all.length > MAX_REVOKED_AT_ONCE)
    throw new CliError(EXIT.usage, `name 1 to ${MAX_REVOKED_AT_ONCE} ticket ids, or a file with --file`);
  const tenantId = await session.tenant();
  const result = await session.database.withTenant(tenantId, (client) =>
    revokeCodes(client, tenantId, eventId, all, { actor: options.actor, reason: options.reason }).then((revoked) => {
      // Thrown inside, so that the transaction rolls back.
      if (!revoked.ok) throw new CliError(EXIT.failed, revoked.message);
      return revoked;
    }),
  );
  session.terminal.out(`${result.tickets} tickets revoked, ${result.refs} codes that no ticket is known for\n`);
  for (const { at, why } of result.unable) session.terminal.err(`not revoked: ${all[at]?.ticketId}: ${why}\n`);
  if (result.tickets + result.refs > 0) await waitUntilGatesNotified(session, tenantId, options.wait ?? true);
  if (result.unable.length > 0) throw new CliError(EXIT.failed, `${result.unable.length} of ${all.length} could not be revoked: see above`);
}

async function readCodes(path: string, most: number): Promise<SheetCode[]> {
  try {
    const codes: SheetCode[] = [];
    for await (const record of (await openTicketSource(path)).records()) {
      if ('problem' in record) throw new CliError(EXIT.failed, `${path}:${record.line}: ${record.problem.what}: ${record.problem.hint}`);
      const { ticket_id, code } = record.raw;
      if (typeof ticket_id !== 'string' || typeof code !== 'string') throw new CliError(EXIT.failed, `${path}:${record.line}: needs ticket_id and code`);
      codes.push({ label: ticket_id, code });
      if (codes.length > most) throw new CliError(EXIT.usage, `${path} has more than ${most} codes`);
    }
    return codes;
  } catch (error) {
    if (error instanceof SourceError) throw new CliError(EXIT.failed, error.message);
    throw error;
  }
}

const FORMATS: Readonly<Record<string, SheetFormat>> = { '.svg': 'svg', '.png': 'png', '.html': 'html' };

/** Needs no database: converts one file to another. */
export async function sheetCommand(terminal: Session['terminal'], file: string, options: { readonly out: string; readonly columns?: number }): Promise<void> {
  const format = FORMATS[extname(options.out).toLowerCase()];
  if (format === undefined) throw new CliError(EXIT.usage, `--out ${options.out}: name it .svg, .png or .html`);
  const codes = await readCodes(file, MAX_SHEET_CODES);
  try {
    // As secret as the codes themselves.
    writeSafeFile(options.out, drawSheet(codes, format, options.columns), { mode: 0o600 });
  } catch (error) {
    throw new CliError(EXIT.failed, (error as Error).message);
  }
  terminal.err(`${codes.length} codes are drawn in ${options.out}\n`);
}
