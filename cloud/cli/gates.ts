/** Runs `gate`, `assign`, `gates`, `request`: makes, assigns, lists and commands gates. */
import { ActorId, GateName, splitGateName } from '../../contract/ids.ts';
import { COMMANDS, Command, type Command as CommandName } from '../../contract/requests.ts';
import { cutText, shownLine } from '../../contract/text.ts';
import { UnsafePlaceError, writeSafeFile } from '../../runtime/safe-file.ts';
import type { DatabaseClient } from '../db/database.ts';
import { assignGate, ensureDevice, renewToken, republishWant } from '../devices/assignment.ts';
import { clearAlert } from '../devices/clear-alert.ts';
import { type GateView, listGates } from '../devices/gate-list.ts';
import type { GateRequests } from '../devices/requests.ts';
import { admitForkedRow, openForkedRows, setForkedRowAside } from '../reconcile/forked-rows.ts';
import { CliError, EXIT, type Session } from './context.ts';
import { waitUntilGatesNotified } from './wait-published.ts';

export interface TokenOptions {
  readonly tokenFile?: string;
  readonly json?: boolean;
}

/** Makes a gate (and its site); prints its token once. A known gate keeps its token. */
export async function gateAdd(session: Session, gate: string, options: TokenOptions & { readonly scanner?: boolean }): Promise<void> {
  const tenantId = await session.tenant(true);
  const made = await session.database.withTenant(tenantId, async (client) => {
    const made = await makeGate(client, tenantId, gate, options.scanner === true ? 'scanner' : 'gate');
    if (made.token !== null) keepToken(made.token, options);
    return made;
  });
  if (made.token === null) throw new CliError(EXIT.failed, `the gate ${gate} is known already; a new token for it: stile-cloud gate token ${gate}`);
  sayMade(session, gate, made);
  showToken(session, gate, made.token, options);
}

export async function gateToken(session: Session, gate: string, options: TokenOptions): Promise<void> {
  const tenantId = await session.tenant();
  const token = await session.database.withTenant(tenantId, async (client) => {
    const token = await renewToken(client, gate);
    if (token !== null) keepToken(token, options);
    return token;
  });
  if (token === null) throw new CliError(EXIT.failed, `there is no gate ${gate}: stile-cloud gates lists them`);
  showToken(session, gate, token, options);
}

/** Clears an alert that the cloud raised itself: clone, ledger. Records who and why. */
export async function gateClearAlert(
  session: Session,
  gate: string,
  alert: string,
  options: { readonly actor: string; readonly reason: string },
): Promise<void> {
  if (!ActorId.safeParse(options.actor).success) throw new CliError(EXIT.usage, '--actor is a staff id, never a name');
  const tenantId = await session.tenant();
  if (!(await session.database.withTenant(tenantId, (client) => clearAlert(client, { gate, alert, ...options }))))
    throw new CliError(
      EXIT.failed,
      `the cloud has raised no alert ${alert} of ${gate}: stile-cloud gates shows alerts; one that the gate raised is the gate's to clear`,
    );
  session.terminal.err(`${gate}: the alert ${alert} is cleared; a new finding raises it again\n`);
}

/** Lists the rows of gates that do not follow what is stored and are still open. */
export async function gateForks(session: Session, gate: string | null, options: { readonly json?: boolean }): Promise<void> {
  const tenantId = await session.tenant();
  const rows = await session.database.withTenant(tenantId, (client) => openForkedRows(client, gate));
  if (options.json === true) return session.terminal.out(`${JSON.stringify(rows)}\n`);
  if (rows.length === 0) return session.terminal.out('no row is open\n');
  for (const row of rows) {
    const { event_id, ticket_id, ts } = row.entry;
    const about = [ts, row.kind, event_id, ticket_id].filter((part) => typeof part === 'string').join(' ');
    session.terminal.out(`${shownLine(`${row.gate} ${row.epoch} ${row.seq} ${cutText(row.hash, SHOWN_HASH_CHARS)} ${about}`)}\n`);
  }
  session.terminal.err('they count once their gate sends them again; stile-cloud gate fork admit or set-aside decides one by hand\n');
}

/** Characters of a hash that tell two rows of one place apart. */
const SHOWN_HASH_CHARS = 12;

/** Decides one open forked row by hand: `admit` takes it into the account, `set-aside` never. Records who. */
export async function gateFork(
  session: Session,
  decision: string,
  place: { readonly gate: string; readonly epoch: string; readonly seq: string; readonly hash: string },
  options: { readonly actor: string },
): Promise<void> {
  if (decision !== 'admit' && decision !== 'set-aside') throw new CliError(EXIT.usage, 'say admit or set-aside');
  if (!ActorId.safeParse(options.actor).success) throw new CliError(EXIT.usage, '--actor is a staff id, never a name');
  const [epoch, seq] = [Number(place.epoch), Number(place.seq)];
  if (!GateName.safeParse(place.gate).success || !Number.isSafeInteger(epoch) || !Number.isSafeInteger(seq) || !/^[0-9a-f]{6,64}$/.test(place.hash))
    throw new CliError(EXIT.usage, 'name gate, epoch, seq and the beginning of the hash, as stile-cloud gate forks lists them');
  const decide = decision === 'admit' ? admitForkedRow : setForkedRowAside;
  const tenantId = await session.tenant();
  if (!(await session.database.withTenant(tenantId, (client) => decide(client, { gate: place.gate, epoch, seq, hash: place.hash, actor: options.actor }))))
    throw new CliError(EXIT.failed, `no such row is open: stile-cloud gate forks ${place.gate} lists them`);
  session.terminal.err(`${place.gate} ${epoch} ${seq}: ${decision === 'admit' ? 'counts now' : 'is set aside'}\n`);
}

export interface AssignOptions extends TokenOptions {
  readonly zones?: string;
  readonly tiers?: string;
  readonly none?: boolean;
  readonly force?: boolean;
  readonly wait?: boolean;
  /** Makes the gate where it is new. */
  readonly new?: boolean;
}

/** Assigns events to gates. `site/*`: every known gate of the site. With `new` a new gate is made, and its token shown once. */
export async function assign(session: Session, gate: string, events: readonly string[], options: AssignOptions): Promise<void> {
  if (events.length === 0 && options.none !== true) throw new CliError(EXIT.usage, 'name the events that the gate is for, or --none to take it out of all');
  if (events.length > 0 && options.none === true) throw new CliError(EXIT.usage, '--none takes the gate out of all events: name none beside it');
  const tenantId = await session.tenant(true);
  const gates = gate.endsWith('/*')
    ? (
        await session.database.withTenant(tenantId, (client) =>
          client.query<{ name: string }>('SELECT name FROM devices WHERE site_id = $1 AND revoked_at IS NULL ORDER BY name', [gate.slice(0, -2)]),
        )
      ).rows.map(({ name }) => name)
    : [gate];
  if (gates.length === 0) throw new CliError(EXIT.failed, `there are no gates at ${gate.slice(0, -2)} yet: stile-cloud gate add ${gate.slice(0, -2)}/<gate>`);
  const warnings = new Set<string>();
  for (const name of gates) {
    const assignment = { eventIds: [...new Set(events)], zones: list(options.zones), tiers: list(options.tiers) };
    // In one transaction: a mistyped event or an unwritable token leaves no gate behind whose token nobody has.
    const { made, result } = await session.database.withTenant(tenantId, async (client) => {
      if (options.new !== true) await refuseUnknown(client, name);
      const made = await makeGate(client, tenantId, name);
      const result = await assignGate(client, tenantId, name, assignment, { force: options.force ?? false });
      if (!result.ok) throw new CliError(EXIT.failed, `${result.message}${result.code === 'UNACKNOWLEDGED_ROWS' ? ', or pass --force' : ''}`);
      if (made.token !== null) keepToken(made.token, options);
      return { made, result };
    });
    for (const warning of result.warnings) warnings.add(warning);
    sayMade(session, name, made);
    if (made.token !== null) showToken(session, name, made.token, options);
    const serves = [options.zones === undefined ? null : `zones ${options.zones}`, options.tiers === undefined ? null : `tiers ${options.tiers}`]
      .filter((part) => part !== null)
      .join(', ');
    session.terminal.err(
      `${name} is for ${events.length === 0 ? 'no event' : events.join(', ')}${serves === '' ? '' : ` (${serves})`}${result.removed.length > 0 ? `, no longer for ${result.removed.join(', ')}` : ''}\n`,
    );
  }
  for (const warning of warnings) session.terminal.err(`warning: ${warning}\n`);
  await waitUntilGatesNotified(session, tenantId, options.wait ?? true);
}

/** Most names that a message suggests. */
const MAX_SUGGESTED = 3;

/** Throws CliError for a gate that nobody made: a mistyped name must not become a gate that no lane has. Suggests the names nearest to it. */
async function refuseUnknown(client: DatabaseClient, name: string): Promise<void> {
  if (!GateName.safeParse(name).success) return;
  const { rows } = await client.query<{ name: string; known: boolean }>(
    'SELECT name, name = $1 AS known FROM devices WHERE name = $1 OR (revoked_at IS NULL AND site_id = $2) ORDER BY 2 DESC, 1',
    [name, splitGateName(name).site],
  );
  if (rows[0]?.known === true) return;
  const near = rows
    .map((row) => ({ name: row.name, apart: distance(row.name, name) }))
    .filter(({ apart }) => apart <= 2)
    .toSorted((a, b) => a.apart - b.apart)
    .filter((_, index) => index < MAX_SUGGESTED);
  throw new CliError(
    EXIT.failed,
    `there is no gate ${name}${near.length === 0 ? '' : ` (did you mean ${near.map((one) => one.name).join(' or ')}?)`}: make it with stile-cloud gate add ${name}, or give --new`,
  );
}

/** Returns how many characters are to be changed, added or left out (Levenshtein). */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++)
      next.push(Math.min((row[j] as number) + 1, (next[j - 1] as number) + 1, (row[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1)));
    row = next;
  }
  return row[b.length] as number;
}

interface MadeGate {
  /** null: the gate existed, and keeps its own. */
  readonly token: string | null;
  readonly siteCreated: boolean;
  readonly kind: 'gate' | 'scanner';
}

async function makeGate(client: DatabaseClient, tenantId: string, gate: string, kind: 'gate' | 'scanner' = 'gate'): Promise<MadeGate> {
  const device = await ensureDevice(client, tenantId, gate, kind);
  if (!device.ok) throw new CliError(device.code === 'BAD_REQUEST' ? EXIT.usage : EXIT.failed, device.message);
  return { token: device.created ? await renewToken(client, gate) : null, siteCreated: device.siteCreated, kind };
}

function sayMade(session: Session, gate: string, made: MadeGate): void {
  if (made.siteCreated) session.terminal.err(`made the site ${gate.split('/')[0]}\n`);
  if (made.token !== null) session.terminal.err(`made the ${made.kind} ${gate}\n`);
}

/** Within the transaction that makes the token: an unwritable one must not replace the one before. */
function keepToken(token: string, { tokenFile }: TokenOptions): void {
  if (tokenFile === undefined) return;
  try {
    writeSafeFile(tokenFile, `${token}\n`, { mode: 0o600 });
  } catch (error) {
    throw new CliError(
      EXIT.failed,
      `--token-file ${tokenFile} cannot be written (${error instanceof UnsafePlaceError ? error.message : (error as NodeJS.ErrnoException).code}): name a file in a folder that is there; nothing was changed`,
    );
  }
}

function showToken(session: Session, gate: string, token: string, options: TokenOptions): void {
  if (options.tokenFile !== undefined) session.terminal.err(`the token of ${gate} is in ${options.tokenFile}\n`);
  else if (options.json === true) session.terminal.out(`${JSON.stringify({ gate, token })}\n`);
  else {
    session.terminal.err(`the token of ${gate}, shown this once; the gate shows it to the cloud:\n`);
    session.terminal.out(`${token}\n`);
  }
}

/** `all`: null, which serves all; absent: undefined, which changes nothing. */
const list = (text: string | undefined): string[] | null | undefined =>
  text === undefined
    ? undefined
    : text.trim() === 'all'
      ? null
      : text
          .split(',')
          .map((part) => part.trim())
          .filter((part) => part !== '');

export async function gates(session: Session, options: { readonly site?: string; readonly json?: boolean }): Promise<void> {
  const tenantId = await session.tenant();
  const { gates: found, total } = await session.database.withTenant(tenantId, (client) => listGates(client, { site: options.site }));
  if (total > found.length) session.terminal.err(`the worst ${found.length} of ${total} gates: --site <site> shows those of one site\n`);
  if (options.json === true) {
    session.terminal.out(`${JSON.stringify(found, null, 2)}\n`);
    return;
  }
  if (found.length === 0) {
    session.terminal.err('there are no gates yet: stile-cloud assign <site>/<gate> <event>\n');
    return;
  }
  session.terminal.out(table(['gate', 'state', 'since', 'mode', 'backlog', 'manifest', 'last row', 'events', 'alerts'], found.map(gateLine)));
  session.terminal.out(alertLines(found));
}

/** Gates whose alerts are explained; the table before ranks the worst first. */
const MAX_EXPLAINED = 20;

/** Explains the alerts of the worst gates. A gate's texts are shown without terminal controls. */
function alertLines(found: readonly GateView[]): string {
  const explained = found.filter(({ alerts }) => alerts.length > 0).slice(0, MAX_EXPLAINED);
  const lines = explained.flatMap(({ gate, alerts, alert_messages: messages }) =>
    alerts.map((alert, index) => `${gate}  ${alert}: ${(messages?.[index] ?? '').replace(/\p{Cc}+/gu, ' ')}\n`),
  );
  return lines.length === 0 ? '' : `\n${lines.join('')}`;
}

/** Formats a time to the second, with its zone. */
export const utc = (at: string | null): string => (at === null ? '-' : `${at.slice(0, 19)}Z`);

const gateLine = (gate: GateView): string[] => [
  gate.gate,
  gate.state.replace('_', ' '),
  utc(gate.since),
  gate.mode ?? '-',
  String(gate.backlog ?? '-'),
  String(gate.manifest_version ?? '-'),
  utc(gate.last_row_at),
  gate.event_ids.join(',') || '-',
  gate.alerts.join(',') || '-',
];

/** Aligns columns. */
export function table(head: readonly string[], given: readonly (readonly string[])[]): string {
  const rows = given.map((row) => row.map(shownLine));
  const widths = head.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)));
  return [head, ...rows]
    .map((row) => row.map((cell, column) => (column === row.length - 1 ? cell : cell.padEnd(widths[column] as number))).join('  '))
    .map((line) => `${line.trimEnd()}\n`)
    .join('');
}

export interface RequestOptions {
  readonly actor?: string;
  readonly reason: string;
  readonly arg?: readonly string[];
  readonly confirmExitClosed?: boolean;
  readonly json?: boolean;
}

/** Parses the command and its arguments; numbers and true/false become such values. */
export function requestOf(
  gate: string,
  command: string,
  args: readonly string[],
  confirmExitClosed = false,
): { readonly command: CommandName; readonly args: Record<string, unknown> } {
  if (!GateName.safeParse(gate).success) throw new CliError(EXIT.usage, `${JSON.stringify(gate)}: a gate is named <site>/<gate>, such as arena/north-03`);
  const known = Command.safeParse(command);
  if (!known.success) throw new CliError(EXIT.usage, `there is no command ${JSON.stringify(command)}: ${COMMANDS.join(', ')}`);
  const pairs = args.map((pair) => {
    const at = pair.indexOf('=');
    if (at < 1) throw new CliError(EXIT.usage, `--arg ${JSON.stringify(pair)}: write it such as --arg direction=in`);
    const value = pair.slice(at + 1);
    return [pair.slice(0, at), value === 'true' ? true : value === 'false' ? false : /^\d+$/.test(value) ? Number(value) : value] as const;
  });
  return { command: known.data, args: { ...Object.fromEntries(pairs), ...(confirmExitClosed ? { confirm_exit_closed: true } : {}) } };
}

/** Sends a command, waits for the answer, shows it. Exit code 1: the gate refused or failed; 75: no answer. */
export async function sendRequest(session: Session, requests: GateRequests, gate: string, command: string, options: RequestOptions): Promise<void> {
  const request = requestOf(gate, command, options.arg ?? [], options.confirmExitClosed === true);
  const tenantId = await session.tenant();
  const known = await session.database.withTenant(tenantId, (client) => client.query('SELECT 1 FROM devices WHERE name = $1 AND revoked_at IS NULL', [gate]));
  if (known.rowCount === 0) throw new CliError(EXIT.failed, `there is no gate ${gate}: stile-cloud gates lists them`);
  if (request.command === 'refresh') await session.database.withTenant(tenantId, (client) => republishWant(client, tenantId, gate));
  const outcome = await requests.send(gate, request.command, { actor: options.actor ?? 'system', reason: options.reason, args: request.args });
  switch (outcome.kind) {
    case 'malformed':
      throw new CliError(EXIT.usage, outcome.message);
    case 'unsent':
      throw new CliError(EXIT.unreachable, `the broker could not take the request: ${outcome.message}`);
    case 'unanswered':
      throw new CliError(EXIT.tryAgain, `${gate} did not answer within ${outcome.waitedMs / 1000} s: see stile-cloud gates whether it is online`);
    case 'answered': {
      const { response } = outcome;
      session.terminal.out(
        options.json === true
          ? `${JSON.stringify(response)}\n`
          : `${gate} ${command}: ${response.status}${response.error === undefined ? '' : `, ${response.error.code}: ${shownLine(response.error.message)}`} (${Math.round(response.duration_ms)} ms)\n${response.data === undefined ? '' : `${JSON.stringify(response.data, null, 2)}\n`}`,
      );
      if (response.status === 'error') throw new CliError(EXIT.failed, `${gate} did not do it`);
    }
  }
}
