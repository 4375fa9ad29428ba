/** Makes, assigns and revokes gates. Tokens are shown once and stored as SHA-256. */

import { createHash, randomBytes } from 'node:crypto';
import { GateName, splitGateName } from '../../contract/ids.ts';
import { describeIssue } from '../../contract/schema-errors.ts';
import { exitsWarning } from '../../rules/policy.ts';
import type { DatabaseClient } from '../db/database.ts';
import { revokeCertificates } from './certificate-records.ts';

/** Random bytes of a token: 256 bits. */
const TOKEN_BYTES = 32;

export const DEVICE_TOKEN_PREFIX = 'stile-device-';
export const OPERATOR_TOKEN_PREFIX = 'stile-operator-';
export const ENROLMENT_TOKEN_PREFIX = 'stile-enrol-';

/** Returns a new secret, and its stored hash. */
export function newToken(prefix: string): { readonly token: string; readonly sha256: Buffer } {
  const token = prefix + randomBytes(TOKEN_BYTES).toString('base64url');
  return { token, sha256: tokenHash(token) };
}
export const tokenHash = (token: string): Buffer => createHash('sha256').update(token, 'utf8').digest();

export type Refusal = {
  readonly ok: false;
  readonly code: 'BAD_REQUEST' | 'NOT_FOUND' | 'SITE_TAKEN' | 'OTHER_SITE' | 'UNACKNOWLEDGED_ROWS' | 'REVOKED';
  readonly message: string;
};

export type DeviceResult = { readonly ok: true; readonly created: boolean; readonly siteCreated: boolean } | Refusal;

/** Makes the gate, and its site, where they are new. */
export async function ensureDevice(client: DatabaseClient, tenantId: string, name: string, kind: 'gate' | 'scanner' = 'gate'): Promise<DeviceResult> {
  const checked = GateName.safeParse(name);
  if (!checked.success) return { ok: false, code: 'BAD_REQUEST', message: `${JSON.stringify(name)}: ${checked.error.issues.map(describeIssue).at(0)}` };
  const { site, gate } = splitGateName(name);
  const siteAdded = await client.query('INSERT INTO sites (tenant_id, site_id, name) VALUES ($1, $2, $2) ON CONFLICT (site_id) DO NOTHING', [tenantId, site]);
  if (siteAdded.rowCount === 0 && (await client.query('SELECT 1 FROM sites WHERE site_id = $1', [site])).rowCount === 0) {
    return { ok: false, code: 'SITE_TAKEN', message: `the site ${site} belongs to another tenant: site ids are unique in an installation, choose another` };
  }
  const added = await client.query(
    'INSERT INTO devices (tenant_id, name, site_id, gate_id, kind, enrolled_at) VALUES ($1, $2, $3, $4, $5, now()) ON CONFLICT (name) DO NOTHING',
    [tenantId, name, site, gate, kind],
  );
  return { ok: true, created: added.rowCount > 0, siteCreated: siteAdded.rowCount > 0 };
}

/** Gives the device a new token for the cloud's HTTP interface and revokes the old one. null: no such device. */
export async function renewToken(client: DatabaseClient, name: string): Promise<string | null> {
  const { token, sha256 } = newToken(DEVICE_TOKEN_PREFIX);
  return (await client.query('UPDATE devices SET token_sha256 = $2, revoked_at = NULL WHERE name = $1', [name, sha256])).rowCount > 0 ? token : null;
}

/**
 * Makes an enrolment token; a gate has one valid token, so earlier ones end. null: no such gate. `revoked`: the gate is, and this token restores
 * it.
 */
export async function newEnrolmentToken(
  client: DatabaseClient,
  tenantId: string,
  gate: string,
  hours: number,
): Promise<{ readonly token: string; readonly revoked: boolean } | null> {
  const { rows } = await client.query<{ revoked: boolean }>('SELECT revoked_at IS NOT NULL AS revoked FROM devices WHERE name = $1 FOR UPDATE', [gate]);
  if (rows[0] === undefined) return null;
  const { token, sha256 } = newToken(ENROLMENT_TOKEN_PREFIX);
  await client.query('UPDATE enrolment_tokens SET used_at = now() WHERE device = $1 AND used_at IS NULL', [gate]);
  await client.query(
    'INSERT INTO enrolment_tokens (tenant_id, token_sha256, device, created_at, expires_at) VALUES ($1, $2, $3, clock_timestamp(), now() + make_interval(hours => $4))',
    [tenantId, sha256, gate, hours],
  );
  return { token, revoked: rows[0].revoked };
}

/** Publishes `manifest/want` again for this gate, in place of the broker's retained message. Goes before a `refresh`. */
export async function republishWant(client: DatabaseClient, tenantId: string, gate: string): Promise<void> {
  await client.query("INSERT INTO outbox (tenant_id, kind, key) VALUES ($1, 'gate', $2)", [tenantId, gate]);
}

/** Revokes the device's token and certificates. False: no such device. */
export async function revokeDevice(client: DatabaseClient, name: string): Promise<boolean> {
  // An unused enrolment token, or one being made, must not restore it.
  await client.query('SELECT 1 FROM devices WHERE name = $1 FOR UPDATE', [name]);
  await client.query('UPDATE enrolment_tokens SET used_at = now() WHERE device = $1 AND used_at IS NULL', [name]);
  await revokeCertificates(client, name, 'revoked');
  return (await client.query('UPDATE devices SET revoked_at = coalesce(revoked_at, now()), token_sha256 = NULL WHERE name = $1', [name])).rowCount > 0;
}

/** Removes a gate that has no record, and its site where nothing else is of it. False: rows name it, and it stays. Throws where other rows do. */
export async function removeDevice(client: DatabaseClient, name: string): Promise<boolean> {
  await client.query('SELECT 1 FROM devices WHERE name = $1 FOR UPDATE', [name]);
  if ((await client.query('SELECT 1 FROM ledgers WHERE gate = $1', [name])).rowCount > 0) return false;
  await revokeCertificates(client, name, 'removed');
  await client.query('DELETE FROM gate_assignments WHERE gate = $1', [name]);
  for (const table of ['enrolment_tokens', 'device_alerts']) await client.query(`DELETE FROM ${table} WHERE device = $1`, [name]);
  await client.query('DELETE FROM devices WHERE name = $1', [name]);
  await client.query(
    `DELETE FROM sites s WHERE site_id = $1 AND NOT EXISTS (SELECT FROM devices d WHERE d.site_id = s.site_id)
     AND NOT EXISTS (SELECT FROM events e WHERE e.site_id = s.site_id) AND NOT EXISTS (SELECT FROM ledgers l WHERE l.site_id = s.site_id)
     AND NOT EXISTS (SELECT FROM venues v WHERE v.site_id = s.site_id)`,
    [splitGateName(name).site],
  );
  return true;
}

export interface Assignment {
  readonly eventIds: readonly string[];
  /** null: all; undefined: unchanged for each event, all for a new one. */
  readonly zones: readonly string[] | null | undefined;
  readonly tiers: readonly string[] | null | undefined;
}

export type AssignmentResult =
  | {
      readonly ok: true;
      readonly added: readonly string[];
      readonly removed: readonly string[] /** What a person should know all the same; empty: nothing. */;
      readonly warnings: readonly string[];
    }
  | Refusal;

/** Assigns exactly these events to the gate. A gate that reports unacknowledged rows keeps the events of those rows, unless `force`. */
export async function assignGate(
  client: DatabaseClient,
  tenantId: string,
  gate: string,
  assignment: Assignment,
  options: { readonly force?: boolean } = {},
): Promise<AssignmentResult> {
  const device = (
    await client.query<{ backlog: number | null; revoked: boolean }>(
      "SELECT (health->>'backlog')::bigint AS backlog, revoked_at IS NOT NULL AS revoked FROM devices WHERE name = $1 FOR UPDATE",
      [gate],
    )
  ).rows[0];
  if (device === undefined) return { ok: false, code: 'NOT_FOUND', message: `there is no gate ${gate}: make it with stile-cloud gate add ${gate}` };
  if (device.revoked) return { ok: false, code: 'REVOKED', message: `the gate ${gate} is revoked: give it a new token with stile-cloud gate token ${gate}` };
  const { site } = splitGateName(gate);
  const events = (
    await client.query<{ event_id: string; site_id: string | null; policies: unknown }>(
      'SELECT event_id, site_id, policies FROM events WHERE event_id = ANY($1)',
      [assignment.eventIds],
    )
  ).rows;
  const known = new Set(events.map(({ event_id }) => event_id));
  const unknown = assignment.eventIds.filter((id) => !known.has(id));
  if (unknown.length > 0) return { ok: false, code: 'NOT_FOUND', message: `there is no event ${unknown.join(', ')}: make it first with stile-cloud event put` };
  // An event is at one site, whose gates know of each other's entries.
  const elsewhere = events.find(({ site_id }) => site_id !== null && site_id !== site);
  if (elsewhere !== undefined)
    return {
      ok: false,
      code: 'OTHER_SITE',
      message: `${elsewhere.event_id} is at the site ${elsewhere.site_id}, and ${gate} is not: move it with stile-cloud event put ${elsewhere.event_id} --site ${site}`,
    };
  await client.query('UPDATE events SET site_id = $2 WHERE event_id = ANY($1) AND site_id IS NULL', [assignment.eventIds, site]);
  const old = (
    await client.query<{ event_id: string; limited: boolean }>(
      'SELECT event_id, zones IS NOT NULL OR tiers IS NOT NULL AS limited FROM gate_assignments WHERE gate = $1',
      [gate],
    )
  ).rows;
  const before = old.map(({ event_id }) => event_id);
  const removed = before.filter((id) => !assignment.eventIds.includes(id));
  if (removed.length > 0 && (device.backlog ?? 0) > 0 && options.force !== true) {
    return {
      ok: false,
      code: 'UNACKNOWLEDGED_ROWS',
      message: `${gate} has ${device.backlog} rows that have not arrived yet: wait until its backlog is 0, or it would lose ${removed.join(', ')} with rows of it unacknowledged`,
    };
  }
  await client.query('DELETE FROM gate_assignments WHERE gate = $1 AND event_id = ANY($2)', [gate, removed]);
  const { zones, tiers } = assignment;
  const changed = await client.query<{ event_id: string }>(
    `INSERT INTO gate_assignments AS a (tenant_id, gate, event_id, zones, tiers) SELECT $1, $2, e, $4, $5 FROM unnest($3::text[]) AS e
     ON CONFLICT (tenant_id, gate, event_id) DO UPDATE SET zones = CASE WHEN $6 THEN excluded.zones ELSE a.zones END, tiers = CASE WHEN $7 THEN excluded.tiers ELSE a.tiers END
     WHERE ($6 AND a.zones IS DISTINCT FROM excluded.zones) OR ($7 AND a.tiers IS DISTINCT FROM excluded.tiers) RETURNING event_id`,
    [tenantId, gate, [...assignment.eventIds].sort(), zones ?? null, tiers ?? null, zones !== undefined, tiers !== undefined],
  );
  // The event's manifest holds what a gate serves: it is built anew where that changed. A gate that serves all changes no file.
  const limits = (zones ?? null) !== null || (tiers ?? null) !== null;
  const rebuilt = changed.rows.map(({ event_id }) => event_id).filter((id) => limits || old.some(({ event_id, limited }) => limited && event_id === id));
  await client.query("INSERT INTO outbox (tenant_id, kind, key, build) SELECT $1, 'event', e, e = ANY($3) FROM unnest($2::text[]) AS e", [
    tenantId,
    changed.rows.map(({ event_id }) => event_id),
    rebuilt,
  ]);
  await client.query("INSERT INTO outbox (tenant_id, kind, key) VALUES ($1, 'gate', $2)", [tenantId, gate]);
  const warnings = events.map(({ event_id, policies }) => exitsWarning(event_id, policies)).filter((warning) => warning !== null);
  return { ok: true, added: assignment.eventIds.filter((id) => !before.includes(id)), removed, warnings };
}
