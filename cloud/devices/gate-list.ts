/** Lists every gate for operators: from its latest MQTT messages, its alerts, its assignment and its ledger. */
import type { z } from 'zod';
import type { GateView as GateViewSchema } from '../../contract/http.ts';
import { MODES } from '../../contract/ledger.ts';
import type { DatabaseClient } from '../db/database.ts';

export type GateView = z.infer<typeof GateViewSchema>;

/** Gates in one answer; of more, those first in the alphabet. */
const MAX_GATES = 5_000;

/** Silence, in milliseconds, after which a gate is offline: it sends health every 30 s, and missed three. */
const SILENT_AFTER_MS = 90_000;

interface GateRow {
  readonly name: string;
  readonly state: { readonly state?: unknown; readonly since?: unknown } | null;
  readonly state_at: Date | null;
  readonly health_at: Date | null;
  readonly now: Date;
  readonly health: { readonly mode?: unknown; readonly backlog?: unknown; readonly manifest_version?: unknown } | null;
  readonly revoked_at: Date | null;
  readonly event_ids: string[];
  readonly alerts: string[];
  readonly alert_messages: string[];
  readonly last_row_at: Date | null;
}

/** Orders the worst first: with alerts, offline, never seen, online, revoked; then by name. */
export async function listGates(client: DatabaseClient, site?: string): Promise<GateView[]> {
  const { rows } = await client.query<GateRow>(
    `SELECT d.name, d.state, d.state_at, d.health, d.health_at, d.revoked_at, now() AS now,
       ARRAY(SELECT a.event_id FROM gate_assignments a WHERE a.tenant_id = d.tenant_id AND a.gate = d.name ORDER BY a.event_id) AS event_ids,
       ARRAY(SELECT l.alert_id FROM device_alerts l WHERE l.tenant_id = d.tenant_id AND l.device = d.name ORDER BY l.alert_id) AS alerts,
       ARRAY(SELECT coalesce(l.alert ->> 'message', '') FROM device_alerts l WHERE l.tenant_id = d.tenant_id AND l.device = d.name ORDER BY l.alert_id) AS alert_messages,
       (SELECT max(e.last_row_at) FROM ledger_epochs e WHERE e.tenant_id = d.tenant_id AND e.gate = d.name) AS last_row_at
     FROM devices d WHERE d.kind = 'gate' AND ($1::text IS NULL OR d.site_id = $1) ORDER BY d.name LIMIT $2`,
    [site ?? null, MAX_GATES],
  );
  const rank = (gate: GateView) =>
    gate.alerts.length > 0 ? 0 : gate.state === 'offline' ? 1 : gate.state === 'never_seen' ? 2 : gate.state === 'online' ? 3 : 4;
  return rows.map(viewOf).sort((a, b) => rank(a) - rank(b) || (a.gate < b.gate ? -1 : 1));
}

/** A gate's fields are stored as received: an invalid one counts as unknown. */
function viewOf(row: GateRow): GateView {
  const count = (value: unknown) => (typeof value === 'number' && Number.isInteger(value) && value >= 0 ? value : null);
  return {
    gate: row.name,
    ...presenceOf(row),
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

/** Decides by the latest message: a broker that failed with the gate cannot publish its will. */
function presenceOf({ state, state_at, health_at, revoked_at, now }: GateRow): Pick<GateView, 'state' | 'since'> {
  if (revoked_at !== null) return { state: 'revoked', since: revoked_at.toISOString() };
  if (state === null && health_at === null) return { state: 'never_seen', since: null };
  const saysOnline = state?.state === 'online';
  const times = [health_at, saysOnline || health_at === null ? state_at : null].flatMap((at) => (at === null ? [] : [at.getTime()]));
  const lastMessageMs = times.length === 0 ? null : Math.max(...times);
  if (saysOnline && lastMessageMs !== null && now.getTime() - lastMessageMs <= SILENT_AFTER_MS)
    return { state: 'online', since: typeof state.since === 'string' ? state.since : (state_at?.toISOString() ?? null) };
  return { state: 'offline', since: lastMessageMs === null ? null : new Date(lastMessageMs).toISOString() };
}
