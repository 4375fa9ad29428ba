/** Runs `event` and `import`: rights from files and the command line. */
import { DEFAULT_LENGTH_H, endWarning } from '../../rules/validity.ts';
import { putEvent } from '../manifest/events.ts';
import { type ImportReport, importTickets, UnknownEventError } from '../tickets/import/import.ts';
import { SourceError, type SourceFormat } from '../tickets/import/import-source.ts';
import { CliError, EXIT, type Session } from './context.ts';
import { readPolicies } from './policies-file.ts';
import { waitUntilGatesNotified } from './wait-published.ts';

/** Between two lines of progress, in milliseconds. */
const PROGRESS_EVERY_MS = 500;

export interface EventOptions {
  readonly name?: string;
  readonly site?: string;
  readonly move?: boolean;
  readonly starts?: string;
  readonly ends?: string;
  readonly timeZone?: string;
  readonly policies?: string;
  readonly wait?: boolean;
}

/** Makes or changes an event; an absent option leaves it as it is. */
export async function eventPut(session: Session, eventId: string, options: EventOptions): Promise<void> {
  const policies = options.policies === undefined ? undefined : readPolicies(options.policies);
  const tenantId = await session.tenant(true);
  const result = await session.database.withTenant(tenantId, (client) =>
    putEvent(client, tenantId, eventId, {
      name: options.name,
      site: options.site,
      move: options.move,
      starts_at: instant('--starts', options.starts),
      ends_at: instant('--ends', options.ends),
      time_zone: options.timeZone,
      policies,
    }),
  );
  if (!result.ok) {
    if (result.code === 'ENDS_AT_NEEDED')
      throw new CliError(EXIT.usage, `ENDS_AT_NEEDED: ${result.message.replace('give ends_at', 'give --starts or --ends')}`);
    if (result.code === 'OTHER_SITE') throw new CliError(EXIT.failed, `${result.message} To move it, say so with --move`);
    throw new CliError(result.code === 'BAD_REQUEST' ? EXIT.usage : EXIT.failed, result.message.replaceAll('; ', '\n'));
  }
  if (result.siteCreated) session.terminal.err(`made the site ${options.site}\n`);
  session.terminal.out(`event ${eventId}: ${result.created ? 'made' : result.changed ? `changed, version ${result.version}` : 'nothing to change'}\n`);
  if (result.endsAtDefault) session.terminal.err(`--ends was not given: it ends ${result.endsAt}, ${DEFAULT_LENGTH_H} h after its beginning\n`);
  for (const warning of result.warnings) session.terminal.err(`warning: ${warning}\n`);
  if (result.created) session.terminal.err(`next: stile-cloud import ${eventId} tickets.csv, and stile-cloud assign <site>/<gate> ${eventId}\n`);
  else if (result.changed) await waitUntilGatesNotified(session, tenantId, options.wait ?? true);
}

export async function eventList(session: Session, options: { readonly json?: boolean }): Promise<void> {
  const tenantId = await session.tenant();
  const { rows } = await session.database.withTenant(tenantId, (client) =>
    client.query<{
      event_id: string;
      name: string;
      site: string | null;
      starts_at: Date | null;
      ends_at: Date | null;
      tickets: number;
      gates: number;
      version: number;
      manifest_version: number | null;
    }>(
      `SELECT e.event_id, e.name, e.site_id AS site, e.starts_at, e.ends_at, e.version,
       (SELECT count(*) FROM tickets t WHERE t.tenant_id = e.tenant_id AND t.event_id = e.event_id) AS tickets,
       (SELECT count(*) FROM gate_assignments a WHERE a.tenant_id = e.tenant_id AND a.event_id = e.event_id) AS gates,
       (SELECT max(m.version) FROM manifests m WHERE m.tenant_id = e.tenant_id AND m.event_id = e.event_id) AS manifest_version
     FROM events e ORDER BY e.starts_at NULLS LAST, e.event_id LIMIT 1000`,
    ),
  );
  if (options.json === true) {
    session.terminal.out(`${JSON.stringify(rows, null, 2)}\n`);
    return;
  }
  if (rows.length === 0) {
    session.terminal.err('there are no events yet: stile-cloud event put <id> --site <site> --name <name>\n');
    return;
  }
  for (const row of rows) {
    session.terminal.out(
      `${row.event_id}  ${row.name}  ${row.site ?? '-'}  ${row.starts_at?.toISOString() ?? 'no start'}  ${row.ends_at === null ? (row.starts_at === null ? 'NO END' : `no end: ${DEFAULT_LENGTH_H} h`) : `to ${row.ends_at.toISOString()}`}  ${row.tickets} tickets  ${row.gates} gates  manifest ${row.manifest_version ?? 'none'}\n`,
    );
    warnOfEnd(session, row.event_id, row);
  }
}

export async function eventShow(session: Session, eventId: string): Promise<void> {
  const tenantId = await session.tenant();
  const { rows } = await session.database.withTenant(tenantId, (client) =>
    client.query<{ starts_at: Date | null; ends_at: Date | null }>(
      'SELECT event_id, site_id AS site, name, starts_at, ends_at, time_zone, policies, version FROM events WHERE event_id = $1',
      [eventId],
    ),
  );
  if (rows[0] === undefined) throw new CliError(EXIT.failed, `there is no event ${eventId}: stile-cloud event list`);
  session.terminal.out(`${JSON.stringify(rows[0], null, 2)}\n`);
  warnOfEnd(session, eventId, rows[0]);
}

function warnOfEnd(session: Session, eventId: string, event: { readonly starts_at: Date | null; readonly ends_at: Date | null }): void {
  const warning = endWarning({ startsAtMs: event.starts_at?.getTime() ?? null, endsAtMs: event.ends_at?.getTime() ?? null });
  if (warning !== null) session.terminal.err(`warning: event ${eventId} ${warning}\n`);
}

export interface ImportCommandOptions {
  readonly format?: SourceFormat;
  readonly strict?: boolean;
  readonly allowWeakCodes?: boolean;
  readonly json?: boolean;
  readonly wait?: boolean;
}

export async function importCommand(session: Session, eventId: string, path: string, options: ImportCommandOptions): Promise<void> {
  const tenantId = await session.tenant();
  const started = performance.now();
  let shownAt = started;
  let report: ImportReport;
  try {
    report = await importTickets({
      database: session.database,
      tenantId,
      eventId,
      path,
      format: options.format,
      strict: options.strict ?? false,
      allowWeakCodes: options.allowWeakCodes ?? false,
      onProgress: ({ lines, refused }) => {
        if (performance.now() - shownAt < PROGRESS_EVERY_MS) return;
        shownAt = performance.now();
        const text = `${lines} lines read${refused > 0 ? `, ${refused} refused` : ''}, ${Math.round(lines / ((shownAt - started) / 1000))} a second`;
        session.terminal.err(session.terminal.interactive ? `\r${text.padEnd(70)}` : `${text}\n`);
      },
    });
  } catch (error) {
    if (error instanceof SourceError || error instanceof UnknownEventError) throw new CliError(EXIT.failed, error.message);
    throw error;
  }
  if (session.terminal.interactive && shownAt !== started) session.terminal.err('\n');
  if (report.ignored.length > 0) session.terminal.err(`not used: ${report.ignored.join(', ')}\n`);
  for (const warning of report.warnings) session.terminal.err(`warning: ${warning}\n`);
  for (const error of report.errors) session.terminal.err(`${error}\n`);
  if (report.refused > report.errors.length) session.terminal.err(`… ${report.refused} lines refused in all\n`);
  const { errors, ...counts } = report;
  if (options.json === true) session.terminal.out(`${JSON.stringify({ ...counts, errors })}\n`);
  else
    session.terminal.out(
      report.rolledBack
        ? `nothing imported: ${report.refused} lines are wrong (--strict)\n`
        : `${report.created} new, ${report.updated} changed, ${report.unchanged} as before, ${report.refused} refused, of ${report.lines} lines\n`,
    );
  if (report.created + report.updated > 0) await waitUntilGatesNotified(session, tenantId, options.wait ?? true);
  if (report.refused > 0)
    throw new CliError(
      EXIT.failed,
      report.rolledBack
        ? 'correct the lines above and import again'
        : 'the lines above were left out: correct them and import the file again; imported tickets stay as they are',
    );
}

/** Parses a time with its zone → ISO; `none`: null. */
export function instant(option: string, value: string | undefined): string | null | undefined {
  if (value === undefined) return undefined;
  if (value === 'none') return null;
  const zoned = /(Z|[+-]\d{2}:?\d{2})$/.test(value);
  const at = Date.parse(value.replace(' ', 'T'));
  if (!zoned || Number.isNaN(at))
    throw new CliError(
      EXIT.usage,
      `${option} ${JSON.stringify(value)}: write the time with its zone, such as 2026-07-01T20:00+02:00 or 2026-07-01T18:00:00Z, or none`,
    );
  return new Date(at).toISOString();
}
