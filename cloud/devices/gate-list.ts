/** Lists every gate for operators: from its latest MQTT messages, its alerts, its assignment and its ledger. */
import type { z } from 'zod';
import type { GateView as GateViewSchema } from '../../contract/http.ts';
import { MODES } from '../../contract/ledger.ts';
import type { DatabaseClient } from '../db/database.ts';

export type GateView = z.infer<typeof GateViewSchema>;

/** Gates on one page; the others follow on the next pages. */
export const MAX_GATES_ON_PAGE = 5_000;

/** Silence, in milliseconds, after which a gate is offline: it sends health every 30 s, and missed three. */
const SILENT_AFTER_MS = 90_000;

interface GateRow {
  readonly name: string;
  readonly state: { readonly state?: unknown; readonly since?: unknown } | null;
  readonly state_at: Date | null;
  readonly rank: number;
  readonly total: number;
  readonly presence: GateView['state'];
  /** Arrival of the gate's last message. */
  readonly last_at: Date | null;
  readonly health: { readonly mode?: unknown; readonly backlog?: unknown; readonly manifest_version?: unknown } | null;
  readonly revoked_at: Date | null;
  readonly event_ids: string[];
  readonly alerts: string[];
  readonly alert_messages: string[];
  readonly last_row_at: Date | null;
}

export interface GatePage {
  readonly gates: GateView[];
  /** Gates of all pages. */
  readonly total: number;
  /** The cursor of the next page; null: this is the last. */
  readonly next: string | null;
}

/** Matches `<rank>/<site>/<gate>`: the rank and the name of the last gate of a page. */
const CURSOR = /^([0-4])\/(.{1,63})$/;

/**
 * Returns a page of the gates, and of scanners with an alert, the worst first: with alerts, offline, never seen, online, revoked; then by name. PostgreSQL ranks all of them before it
 * cuts, so that the first page holds the worst of every gate. An invalid cursor begins anew.
 */
export async function listGates(
  client: DatabaseClient,
  { site, cursor, limit = MAX_GATES_ON_PAGE }: { readonly site?: string | undefined; readonly cursor?: string | undefined; readonly limit?: number } = {},
): Promise<GatePage> {
  const [, rank, name] = CURSOR.exec(cursor ?? '') ?? [null, null, null];
  const most = Math.min(Math.max(1, limit), MAX_GATES_ON_PAGE);
  const { rows } = await client.query<GateRow>(
    `WITH heard AS (
       SELECT d.*, coalesce(d.state ->> 'state' = 'online', false) AS says_online, EXISTS (SELECT FROM device_alerts l WHERE l.tenant_id = d.tenant_id AND l.device = d.name) AS alerted,
         CASE WHEN d.state ->> 'state' = 'online' OR d.health_at IS NULL THEN greatest(d.health_at, d.state_at) ELSE d.health_at END AS last_at
       FROM devices d WHERE d.tenant_id = current_tenant_id() AND ($1::text IS NULL OR d.site_id = $1)
         AND (d.kind = 'gate' OR EXISTS (SELECT FROM device_alerts l WHERE l.tenant_id = d.tenant_id AND l.device = d.name))
     ), present AS (
       SELECT h.*, CASE WHEN h.revoked_at IS NOT NULL THEN 'revoked' WHEN h.state IS NULL AND h.health_at IS NULL THEN 'never_seen'
         WHEN h.says_online AND h.last_at >= now() - make_interval(secs => $5::double precision / 1000) THEN 'online' ELSE 'offline' END AS presence FROM heard h
     ), ranked AS (
       SELECT p.*, CASE WHEN p.alerted THEN 0 WHEN p.presence = 'offline' THEN 1 WHEN p.presence = 'never_seen' THEN 2 WHEN p.presence = 'online' THEN 3 ELSE 4 END AS rank, count(*) OVER () AS total FROM present p
     ), page AS (
       SELECT r.* FROM ranked r WHERE $2::integer IS NULL OR (r.rank, r.name COLLATE "C") > ($2, $3::text COLLATE "C") ORDER BY r.rank, r.name COLLATE "C" LIMIT $4
     )
     SELECT d.name, d.rank, d.total, d.presence, d.last_at, d.state, d.state_at, d.health, d.revoked_at,
       ARRAY(SELECT a.event_id FROM gate_assignments a WHERE a.tenant_id = d.tenant_id AND a.gate = d.name ORDER BY a.event_id) AS event_ids,
       ARRAY(SELECT l.alert_id FROM device_alerts l WHERE l.tenant_id = d.tenant_id AND l.device = d.name ORDER BY l.alert_id) AS alerts,
       ARRAY(SELECT coalesce(l.alert ->> 'message', '') FROM device_alerts l WHERE l.tenant_id = d.tenant_id AND l.device = d.name ORDER BY l.alert_id) AS alert_messages,
       (SELECT max(e.last_row_at) FROM ledger_epochs e WHERE e.tenant_id = d.tenant_id AND e.gate = d.name) AS last_row_at
     FROM page d ORDER BY d.rank, d.name COLLATE "C"`,
    [site ?? null, rank ?? null, name ?? null, most + 1, SILENT_AFTER_MS],
  );
  const page = rows.slice(0, most);
  const last = page.at(-1);
  return { gates: page.map(viewOf), total: rows[0]?.total ?? 0, next: rows.length > most && last !== undefined ? `${last.rank}/${last.name}` : null };
}

/** A gate's fields are stored as received: an invalid one counts as unknown. */
function viewOf(row: GateRow): GateView {
  const count = (value: unknown) => (typeof value === 'number' && Number.isInteger(value) && value >= 0 ? value : null);
  return {
    gate: row.name,
    state: row.presence,
    since: sinceOf(row),
    mode: MODES.find((mode) => mode === row.health?.mode) ?? null,
    backlog: count(row.health?.backlog),
    manifest_version: count(row.health?.manifest_version),
    event_ids: row.event_ids,
    alerts: row.alerts,
    alert_messages: row.alert_messages,
    last_row_at: row.last_row_at?.toISOString() ?? null,
    ...(row.revoked_at === null ? {} : { revoked: true }),
  };
}

/** Returns the time of the latest message: a broker that failed with the gate cannot publish its will. */
function sinceOf({ presence, state, state_at, last_at, revoked_at }: GateRow): string | null {
  if (presence === 'revoked') return revoked_at?.toISOString() ?? null;
  if (presence === 'online') return typeof state?.since === 'string' ? state.since : (state_at?.toISOString() ?? null);
  return last_at?.toISOString() ?? null;
}
