/** Runs `refusals` and `settle`: operators' queries of the ledger, and settlements of unknown passages. */
import { GateName, LedgerName } from '../../contract/ids.ts';
import { settle } from '../reconcile/cloud-ledger.ts';
import { refusals } from '../reconcile/queries.ts';
import { unsettled } from '../reconcile/unsettled.ts';
import { pendingScans } from '../scan/pending-scans.ts';
import { CliError, EXIT, type Session } from './context.ts';
import { table, utc } from './gates.ts';

export interface RefusalOptions {
  readonly gate?: string;
  readonly since?: string;
  readonly limit?: number;
  readonly json?: boolean;
}

export async function refusalsCommand(session: Session, options: RefusalOptions): Promise<void> {
  if (options.gate !== undefined && !GateName.safeParse(options.gate).success)
    throw new CliError(EXIT.usage, `--gate ${JSON.stringify(options.gate)}: a gate is named <site>/<gate>, such as arena/north-03`);
  const tenantId = await session.tenant();
  const found = await session.database.withTenant(tenantId, (client) =>
    refusals(client, options.gate ?? null, sinceOf(options.since ?? '24h'), options.limit ?? 100),
  );
  if (options.json === true) {
    session.terminal.out(`${JSON.stringify(found, null, 2)}\n`);
    return;
  }
  if (found.length === 0) {
    session.terminal.err('nobody was refused in this time\n');
    return;
  }
  session.terminal.out(
    table(
      ['when', 'gate', 'reason', 'ticket', 'explanation'],
      found.map((row) => [
        `${row.unmeasured === true ? 'about ' : ''}${utc(row.at)}`,
        row.device ?? row.gate,
        row.reason,
        row.ticket_id ?? '-',
        row.explanation,
      ]),
    ),
  );
}

export async function unsettledCommand(
  session: Session,
  options: { readonly event?: string; readonly limit?: number; readonly json?: boolean },
): Promise<void> {
  const tenantId = await session.tenant();
  const { unsettled: found, more } = await session.database.withTenant(tenantId, (client) => unsettled(client, options.event ?? null, options.limit ?? 100));
  if (more) session.terminal.err(`the newest ${found.length}: there are more\n`);
  if (options.json === true) {
    session.terminal.out(`${JSON.stringify(found, null, 2)}\n`);
    return;
  }
  if (found.length === 0) {
    session.terminal.err('no grant waits for a settlement\n');
    return;
  }
  session.terminal.out(
    table(
      ['when', 'gate', 'epoch', 'seq', 'ticket', 'event', 'direction', 'guests', 'passage'],
      found.map((row) => [
        `${row.unmeasured === true ? 'about ' : ''}${utc(row.at)}`,
        row.device ?? row.gate,
        String(row.epoch),
        String(row.seq),
        row.ticket_id,
        row.event_id,
        row.direction,
        `${row.units_uncertain} of ${row.units}`,
        row.outcome,
      ]),
    ),
  );
  session.terminal.err('settle one: stile-cloud settle <gate> <epoch> <seq> passed|returned --actor <id> --reason <text>\n');
}

export async function pendingCommand(session: Session, options: { readonly event?: string; readonly limit?: number; readonly json?: boolean }): Promise<void> {
  const tenantId = await session.tenant();
  const { pending, more } = await session.database.withTenant(tenantId, (client) => pendingScans(client, options.event ?? null, options.limit ?? 100));
  if (more) session.terminal.err(`the newest ${pending.length}: there are more\n`);
  if (options.json === true) {
    session.terminal.out(`${JSON.stringify(pending, null, 2)}\n`);
    return;
  }
  if (pending.length === 0) {
    session.terminal.err('no scan waits for its ticket\n');
    return;
  }
  session.terminal.out(
    table(
      ['when', 'scanner', 'result', 'ticket', 'event', 'direction', 'problem'],
      pending.map((row) => [
        utc(row.at),
        row.device ?? row.gate,
        row.result,
        row.ticket_id ?? `ref ${row.ticket_ref}`,
        row.event_id ?? '-',
        row.direction,
        row.failed ?? '-',
      ]),
    ),
  );
}

export interface SettleOptions {
  readonly actor: string;
  readonly reason: string;
  readonly force?: boolean;
}

/** Settles a grant with an unknown passage: the guest passed, or did not. The gates learn it from the cloud's ledger. */
export async function settleCommand(session: Session, gate: string, epoch: string, seq: string, outcome: string, options: SettleOptions): Promise<void> {
  if (outcome !== 'passed' && outcome !== 'returned') throw new CliError(EXIT.usage, `${JSON.stringify(outcome)}: say passed or returned`);
  const position = [Number(epoch), Number(seq)] as const;
  if (!LedgerName.safeParse(gate).success || position.some((part) => !Number.isSafeInteger(part) || part < 1))
    throw new CliError(EXIT.usage, 'name the grant by its gate, epoch and seq, such as: settle arena/north-03 1795000000 17 returned');
  const tenantId = await session.tenant();
  const settled = await session.database.withTenant(tenantId, (client) =>
    settle(client, { of: [gate, ...position], outcome, actor: options.actor, reason: options.reason, force: options.force ?? false }),
  );
  if (!settled.ok && settled.code === 'NO_SUCH_GRANT')
    throw new CliError(EXIT.failed, `there is no grant ${gate} ${epoch} ${seq}: stile-cloud unsettled and GET /tickets/:id/history name them`);
  if (!settled.ok) throw new CliError(EXIT.failed, `${settled.message}: --force`);
  session.terminal.out(`${gate} ${epoch} ${seq} is settled as ${outcome}\n`);
}

/** Parses `30m`, `24h`, `7d`, or a time with its zone. */
function sinceOf(text: string): Date {
  const match = /^(\d{1,6})([mhd])$/.exec(text);
  if (match !== null) return new Date(Date.now() - Number(match[1]) * { m: 60_000, h: 3_600_000, d: 86_400_000 }[match[2] as 'm' | 'h' | 'd']);
  const at = Date.parse(text);
  if (Number.isNaN(at)) throw new CliError(EXIT.usage, `--since ${JSON.stringify(text)}: write it such as 30m, 24h, 7d or 2026-07-01T18:00:00Z`);
  return new Date(at);
}
