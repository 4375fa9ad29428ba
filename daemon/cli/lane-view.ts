/** Formats a running lane as lines of a screen, for `watch` and `sim`. */
import type { Direction } from '../../contract/ids.ts';
import { shownLine } from '../../contract/text.ts';
import type { GateStatus, RecentLine } from '../control/protocol.ts';
import { age, ageOf, clockTime, plural } from './format.ts';
import { backlogText } from './status.ts';
import { type Colour, paint } from './terminal.ts';

const KIND_COLOURS: Readonly<Record<string, Colour>> = { granted: 'green', refused: 'red', alert: 'red', override: 'amber', mode: 'amber', conflict: 'amber' };
const LOW_DISK_MB = 500;

export const lineText = (line: RecentLine): string =>
  `${clockTime(line.at)} ${line.direction === null ? '   ' : line.direction.padEnd(3)} ${shownLine(line.words)}`;

export const paintedLine = (line: RecentLine): string => {
  const colour = KIND_COLOURS[line.kind];
  return colour === undefined ? lineText(line) : paint(colour, lineText(line));
};

/** Returns the status as one line, for output without a terminal. */
export const summary = (status: GateStatus): string =>
  `${status.gate}: ${status.modes.in.mode}, ${plural(status.totals.admissions, 'admission')}, ${plural(status.totals.refusals, 'refusal')}, ${backlogText(status)}, broker ${status.uplink.url === null ? 'none' : status.uplink.online ? 'online' : 'offline'}`;

/** Returns the directions of this lane. */
export const directionsOf = (status: GateStatus): readonly Direction[] =>
  (['in', 'out'] as const).filter((direction) => direction === 'in' || status.readers.some((reader) => reader.direction === 'out'));

/** Returns lamps, mode and signal, a line for each direction, and a line for fire when it is active or latched. */
export function lanePicture(status: GateStatus): readonly string[] {
  const fire = status.fire.asserted
    ? [paint('red', 'FIRE: the lane stands open')]
    : status.fire.latched
      ? [paint('red', 'fire has cleared; the lane stays open until: stile-gate reset-emergency')]
      : [];
  return [...directionsOf(status).map((direction) => laneText(status, direction)), ...fire];
}

function laneText(status: GateStatus, direction: Direction): string {
  const lamp = (colour: 'green' | 'red' | 'amber') => (status.lamps[direction][colour] ? paint(colour, '●') : paint('grey', '○'));
  const { mode, until } = status.modes[direction];
  const name = mode === 'controlled' ? mode : paint(mode === 'free' ? 'green' : 'amber', mode.replaceAll('_', ' '));
  return `${direction.padEnd(3)} ${lamp('green')} ${lamp('amber')} ${lamp('red')}  ${name}${until === null ? '' : ` until ${clockTime(until)}`}, ${status.signals[direction].replaceAll('_', ' ')}`;
}

/** Returns counts, tickets, backlog and health, then alerts. */
export function healthPicture(status: GateStatus): readonly string[] {
  const { totals, uplink, clock, readers, board, manifests, ledger } = status;
  const good = (right: boolean, yes: string, no: string) => (right ? paint('green', yes) : paint('red', no));
  const expired = manifests.some((one) => Date.parse(one.expires_at) < Date.parse(clock.wall));
  const tickets =
    manifests.length === 0
      ? paint('red', 'no tickets: every code is refused')
      : `${manifests.map((one) => `${one.event_id} ${plural(one.tickets, 'ticket')}`).join(', ')}, ${expired ? paint('red', 'expired') : `made ${ageOf(newest(manifests))} ago`}`;
  return [
    `counted  ${plural(totals.admissions, 'admission')}, ${plural(totals.refusals, 'refusal')}, ${plural(totals.passages, 'passage')}`,
    ...(status.conflicts.standing === 0
      ? []
      : [`conflict ${paint('amber', `${plural(status.conflicts.standing, 'guest')} beyond the right of their ticket`)}`]),
    `tickets  ${tickets}`,
    `ledger   row ${ledger.last_seq}, ${ledger.backlog > 0 && !uplink.online ? paint('amber', backlogText(status)) : backlogText(status)}${ledger.usage_complete ? '' : paint('red', ', usage incomplete')}`,
    `health   broker ${uplink.url === null ? paint('grey', 'none') : good(uplink.online, 'online', 'offline')}  readers ${readers.map((reader) => `${reader.name} ${good(reader.ok, 'ok', 'down')}`).join(' ')}  board ${good(board.ok, 'ok', 'fault')}  clock ${good(clock.trusted, 'trusted', 'not trusted')}  disk ${good(status.disk_free_mb >= LOW_DISK_MB, `${status.disk_free_mb} MB`, `${status.disk_free_mb} MB`)}  up ${age(status.uptime_s)}`,
    ...status.alerts.map((alert) =>
      paint(
        alert.severity === 'info' ? 'grey' : alert.severity === 'warning' ? 'amber' : 'red',
        `! ${shownLine(alert.message)} (${alert.id}, for ${ageOf(alert.since)})`,
      ),
    ),
  ];
}

const newest = (manifests: GateStatus['manifests']): string =>
  manifests
    .map((one) => one.generated_at)
    .sort()
    .at(-1) ?? new Date(0).toISOString();
