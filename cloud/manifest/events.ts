/** Makes and changes events and their policies, for `PUT /events/:id` and `stile-cloud event put`. */
import { ExternalId, SiteId } from '../../contract/ids.ts';
import { MAX_TIME_MS, MIN_TIME_MS } from '../../contract/limits.ts';
import { unstorable } from '../../contract/parse.ts';
import { describeIssue } from '../../contract/schema-errors.ts';
import { EventPolicies, exitsWarning, readPolicies } from '../../rules/policy.ts';
import { defaultEndMs, endWarning } from '../../rules/validity.ts';
import type { DatabaseClient } from '../db/database.ts';

/** Fields that are absent leave a known event as it is. */
export interface EventFields {
  readonly name?: string | undefined;
  readonly site?: string | undefined;
  /** Moves a known event to another site; without it such a change is refused: the gates that hold it are at the old one. */
  readonly move?: boolean | undefined;
  readonly starts_at?: string | null | undefined;
  readonly ends_at?: string | null | undefined;
  readonly time_zone?: string | undefined;
  /** Checked here against EventPolicies; replaces all policies. */
  readonly policies?: unknown;
}

export type EventResult =
  | {
      readonly ok: true;
      readonly created: boolean;
      readonly changed: boolean;
      readonly siteCreated: boolean;
      readonly version: number;
      readonly startsAt: string | null;
      readonly endsAt: string | null;
      /** The end was not given: it is the beginning and DEFAULT_LENGTH_H. */
      readonly endsAtDefault: boolean;
      /** Warnings for a person; empty: none. */
      readonly warnings: readonly string[];
    }
  | { readonly ok: false; readonly code: 'BAD_REQUEST' | 'ENDS_AT_NEEDED' | 'SITE_TAKEN' | 'OTHER_SITE'; readonly message: string };

/**
 * Makes or changes an event in the caller's transaction, its site with it where that is new, and marks the outbox so that its gates get a new
 * manifest. Names every error, and then makes nothing.
 */
export async function putEvent(client: DatabaseClient, tenantId: string, eventId: string, fields: EventFields): Promise<EventResult> {
  const errors = checkEvent(eventId, fields);
  if (errors.length > 0) return { ok: false, code: 'BAD_REQUEST', message: errors.join('; ') };
  const before = (
    await client.query<{ version: number; site_id: string | null; starts_at: Date | null; ends_at: Date | null }>(
      'SELECT version, site_id, starts_at, ends_at FROM events WHERE event_id = $1 FOR UPDATE',
      [eventId],
    )
  ).rows[0];
  const { startsAt, endsAt, endsAtDefault } = timesOf(before, fields);
  if (endsAt === null && (before === undefined || fields.starts_at !== undefined || fields.ends_at !== undefined))
    return {
      ok: false,
      code: 'ENDS_AT_NEEDED',
      message: `event ${eventId} has no beginning and no end, and its tickets would open its gates for ever: give ends_at`,
    };
  const open = endWarning({ startsAtMs: startsAt === null ? null : Date.parse(startsAt), endsAtMs: endsAt === null ? null : Date.parse(endsAt) });
  const exits = fields.policies === undefined ? null : exitsWarning(eventId, fields.policies);
  const warnings = [...(open === null ? [] : [`event ${eventId} ${open}`]), ...(exits === null ? [] : [exits])];
  const times = { startsAt, endsAt, endsAtDefault, warnings };
  if (startsAt !== null && endsAt !== null && Date.parse(startsAt) > Date.parse(endsAt))
    return { ok: false, code: 'BAD_REQUEST', message: `ends_at ${endsAt} is before starts_at ${startsAt}: put them in order` };
  const site = before?.site_id ?? null;
  if (site !== null && fields.site !== undefined && fields.site !== site && fields.move !== true)
    return {
      ok: false,
      code: 'OTHER_SITE',
      message: `event ${eventId} is at the site ${site}, and the gates that hold it stand there: is ${JSON.stringify(fields.site)} a slip of the pen?`,
    };
  let siteCreated = false;
  if (fields.site !== undefined) {
    const known = await ensureSite(client, tenantId, fields.site, fields.time_zone);
    if (known === 'taken')
      return {
        ok: false,
        code: 'SITE_TAKEN',
        message: `the site ${fields.site} belongs to another tenant: site ids are unique in an installation, choose another`,
      };
    siteCreated = known === 'created';
  }
  const policies = fields.policies === undefined ? null : JSON.stringify(EventPolicies.parse(fields.policies));
  if (before === undefined) {
    const { rows } = await client.query<{ version: number }>(
      "INSERT INTO events (tenant_id, event_id, site_id, name, starts_at, ends_at, time_zone, policies, version) VALUES ($1, $2, $3, $4, $5, $6, $7, coalesce($8::jsonb, '{}'), next_event_version(0)) RETURNING version",
      [tenantId, eventId, fields.site ?? null, fields.name ?? eventId, startsAt, endsAt, fields.time_zone ?? 'UTC', policies],
    );
    return { ok: true, created: true, changed: true, siteCreated, version: rows[0]?.version ?? 0, ...times };
  }
  const { rows } = await client.query<{ version: number }>(
    `UPDATE events SET site_id = coalesce($2, site_id), name = coalesce($3, name), starts_at = $4, ends_at = $5, time_zone = coalesce($6, time_zone), policies = coalesce($7::jsonb, policies), version = next_event_version(version), updated_at = now()
     WHERE event_id = $1 AND (site_id, name, starts_at, ends_at, time_zone, policies) IS DISTINCT FROM (coalesce($2, site_id), coalesce($3, name), $4::timestamptz, $5::timestamptz, coalesce($6, time_zone), coalesce($7::jsonb, policies)) RETURNING version`,
    [eventId, fields.site ?? null, fields.name ?? null, startsAt, endsAt, fields.time_zone ?? null, policies],
  );
  const changed = rows[0];
  if (changed !== undefined) await client.query("INSERT INTO outbox (tenant_id, kind, key, build) VALUES ($1, 'event', $2, true)", [tenantId, eventId]);
  return { ok: true, created: false, changed: changed !== undefined, siteCreated, version: changed?.version ?? before.version, ...times };
}

interface Times {
  readonly starts_at: Date | null;
  readonly ends_at: Date | null;
}

/** Keeps fields that are not given; an end that was never given moves with the beginning. */
function timesOf(
  before: Times | undefined,
  fields: EventFields,
): { readonly startsAt: string | null; readonly endsAt: string | null; readonly endsAtDefault: boolean } {
  const iso = (time: string | null): string | null => (time === null ? null : new Date(time).toISOString());
  const startsAt = fields.starts_at === undefined ? (before?.starts_at?.toISOString() ?? null) : iso(fields.starts_at);
  const stored = before?.ends_at ?? null;
  const wasDefault = before?.starts_at != null && stored !== null && stored.getTime() === defaultEndMs(before.starts_at.getTime());
  const given = fields.ends_at === undefined ? (wasDefault ? null : (stored?.toISOString() ?? null)) : iso(fields.ends_at);
  if (given !== null) return { startsAt, endsAt: given, endsAtDefault: false };
  // Without a beginning, its default end stays, unless that is removed too.
  if (startsAt === null) return { startsAt, endsAt: fields.ends_at === undefined ? (stored?.toISOString() ?? null) : null, endsAtDefault: false };
  return { startsAt, endsAt: new Date(defaultEndMs(Date.parse(startsAt))).toISOString(), endsAtDefault: true };
}

/** Makes the site where it is new. `taken`: it belongs to another tenant. */
export async function ensureSite(client: DatabaseClient, tenantId: string, site: string, timeZone?: string): Promise<'known' | 'created' | 'taken'> {
  const added = await client.query(
    "INSERT INTO sites (tenant_id, site_id, name, time_zone) VALUES ($1, $2, $2, coalesce($3, 'UTC')) ON CONFLICT (site_id) DO NOTHING",
    [tenantId, site, timeZone ?? null],
  );
  if (added.rowCount > 0) return 'created';
  return (await client.query('SELECT 1 FROM sites WHERE site_id = $1', [site])).rowCount > 0 ? 'known' : 'taken';
}

function checkEvent(eventId: string, fields: EventFields): string[] {
  const errors: string[] = [];
  const unfit = unstorable(fields);
  if (unfit !== null) return [`${unfit.field}: ${unfit.why}: leave it out`];
  if (!ExternalId.safeParse(eventId).success) errors.push(`event id ${JSON.stringify(eventId)}: use 1 to 64 letters, digits or . _ : @ -`);
  if (fields.site !== undefined) {
    const site = SiteId.safeParse(fields.site);
    if (!site.success) errors.push(`site ${JSON.stringify(fields.site)}: ${site.error.issues.map(describeIssue).at(0)}`);
  }
  if (fields.time_zone !== undefined && !isTimeZone(fields.time_zone))
    errors.push(`time_zone ${JSON.stringify(fields.time_zone)}: there is no such zone; write it such as Europe/Berlin`);
  for (const field of ['starts_at', 'ends_at'] as const) {
    const value = fields[field];
    const at = typeof value === 'string' ? Date.parse(value) : MIN_TIME_MS;
    // An event without a given end ends some hours after its beginning.
    const latest = field === 'starts_at' ? MAX_TIME_MS - 7 * 86_400_000 : MAX_TIME_MS;
    if (!(at >= MIN_TIME_MS && at <= latest))
      errors.push(`${field} ${JSON.stringify(value)}: not a time of an event; write it such as 2026-07-01T18:00:00.000Z`);
  }
  if (fields.policies !== undefined) {
    const policies = readPolicies(fields.policies);
    if (!policies.ok) errors.push(...policies.problems);
  }
  return errors;
}

function isTimeZone(name: string): boolean {
  try {
    new Intl.DateTimeFormat('en', { timeZone: name });
    return true;
  } catch {
    return false;
  }
}
