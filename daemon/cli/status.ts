/** Implements status and manifest show. */
import type { GateStatus, ManifestStatus } from '../control/protocol.ts';
import { withGate } from './context.ts';
import { print } from './exit-codes.ts';
import { age, ageOf, clockTime, columns, plural } from './format.ts';
import type { CommonOptions } from './options.ts';

export async function status(options: CommonOptions): Promise<void> {
  const found = await withGate(options, (gate) => gate.call<GateStatus>('status'));
  print(options.json, found, () => statusText(found));
}

/** Most conflicts shown, the newest. */
const CONFLICTS_SHOWN = 5;

/** Formats the status, a line for each part. */
export function statusText(found: GateStatus): string {
  const out = found.readers.some((reader) => reader.direction === 'out') || found.modes.in.mode !== found.modes.out.mode;
  const mode = (direction: 'in' | 'out') => {
    const { mode: name, until } = found.modes[direction];
    return `${name}${until === null ? '' : ` until ${clockTime(until)}`}`;
  };
  const rows = [
    ['gate', `${found.gate}, version ${found.version}, running for ${age(found.uptime_s)} (pid ${found.pid})`],
    ['mode', out ? `in ${mode('in')}, out ${mode('out')}` : mode('in')],
    ['fire', found.fire.asserted ? 'ALARM' : found.fire.latched ? 'cleared, waits for reset-emergency' : 'quiet'],
    ['readers', found.readers.map((reader) => `${reader.name} ${reader.ok ? 'ok' : `DOWN (${reader.path})`}`).join(', ')],
    ['board', `${found.board.by} ${found.board.ok ? 'ok' : 'FAULT'}`],
    ['tickets', found.manifests.length === 0 ? 'NONE: every code is refused' : found.manifests.map(manifestText).join('; ')],
    ...(found.fetch_problem === null ? [] : [['', found.fetch_problem]]),
    ['counted', `${plural(found.totals.admissions, 'admission')}, ${plural(found.totals.refusals, 'refusal')}, ${plural(found.totals.passages, 'passage')}`],
    ...(found.conflicts.standing === 0
      ? []
      : [
          ['conflicts', `${plural(found.conflicts.standing, 'guest')} beyond the right of their ticket, as the cloud found out`],
          ...found.conflicts.newest
            .filter(({ verdict }) => verdict === 'excess')
            .slice(-CONFLICTS_SHOWN)
            .map((one) => ['', `row ${one.row.join('/')}, ticket ${one.ticket_id ?? 'unknown'}: ${one.words}`]),
        ]),
    ['ledger', `epoch ${found.ledger.epoch}, row ${found.ledger.last_seq}, ${backlogText(found)}${found.ledger.usage_complete ? '' : ', USAGE INCOMPLETE'}`],
    ['broker', found.uplink.url === null ? 'none configured: this gate works alone' : `${found.uplink.url} ${found.uplink.online ? 'online' : 'OFFLINE'}`],
    ['clock', `${found.clock.wall} ${found.clock.trusted ? 'trusted' : 'NOT TRUSTED'}: ${found.clock.why}`],
    ['disk', `${found.disk_free_mb} MB free`],
    ...found.alerts.map((alert) => ['alert', `${alert.severity}: ${alert.message} (${alert.id}, for ${ageOf(alert.since)})`]),
  ];
  return columns(rows);
}

export const backlogText = ({ ledger }: GateStatus): string =>
  ledger.backlog === 0
    ? 'all of it acknowledged by the cloud'
    : `${plural(ledger.backlog, 'row')} not acknowledged yet${ledger.backlog_oldest_s === null ? '' : `, the oldest ${age(ledger.backlog_oldest_s)} old`}`;

const manifestText = (one: ManifestStatus): string => `${one.event_id} version ${one.overlay_version}, ${plural(one.tickets, 'ticket')}`;

export async function manifestShow(options: CommonOptions): Promise<void> {
  const { manifests, fetch_problem: problem } = await withGate(options, (gate) => gate.call<Pick<GateStatus, 'manifests' | 'fetch_problem'>>('manifest'));
  print(options.json, manifests, () =>
    manifests.length === 0
      ? `this gate holds no tickets: every code is refused. ${problem ?? 'Assign it an event: stile-cloud assign'}`
      : columns([
          ['event', 'version', 'with changes to', 'tickets', 'made', 'expires'],
          ...manifests.map((one) => [
            one.event_id,
            String(one.version),
            String(one.overlay_version),
            String(one.tickets),
            `${ageOf(one.generated_at)} ago`,
            one.expires_at,
          ]),
        ]),
  );
}
