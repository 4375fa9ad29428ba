/** watch: the lane, live. On a terminal a small screen; else, or with --json, a line for everything that happens. */
import type { Direction } from '../../contract/ids.ts';
import type { GateStatus, RecentLine, WatchItem } from '../control-calls.ts';
import type { CommonOptions } from './main.ts';
import { withGate } from './settings.ts';
import { backlogWords } from './status.ts';
import { ageOf, clockTime, plural } from './words.ts';

/** Lines of the screen that tell what happened. */
const SHOWN_LINES = 12;
const COLOUR = { green: 32, red: 31, amber: 33, grey: 90 } as const;
const paint = (colour: keyof typeof COLOUR, text: string): string => `\x1b[${COLOUR[colour]}m${text}\x1b[0m`;
const KIND_COLOURS: Readonly<Record<string, keyof typeof COLOUR>> = { granted: 'green', refused: 'red', alert: 'red', override: 'amber', mode: 'amber' };

export async function watch(options: CommonOptions): Promise<void> {
  const screen = options.json !== true && process.stdout.isTTY === true;
  await withGate(options, async (gate) => {
    const stop = () => {
      gate.close();
      if (screen) process.stdout.write('\x1b[?25h\n');
      process.exit(0);
    };
    process.once('SIGINT', stop);
    process.once('SIGTERM', stop);
    if (screen) process.stdout.write('\x1b[?25l');
    let last: GateStatus | null = null;
    const lines: RecentLine[] = [];
    const keep = (line: RecentLine) => {
      lines.push(line);
      if (lines.length > SHOWN_LINES) lines.shift();
    };
    try {
      await gate.call('watch', {}, (item) => {
        const news = item as WatchItem;
        if (options.json === true) return void process.stdout.write(`${JSON.stringify(news)}\n`);
        if ('line' in news) {
          keep(news.line);
          if (!screen) process.stdout.write(`${lineWords(news.line)}\n`);
        } else {
          if (last === null) {
            for (const line of news.status.recent.slice(-SHOWN_LINES)) keep(line);
            if (!screen) process.stdout.write(`${[summary(news.status), ...lines.map(lineWords)].join('\n')}\n`);
          }
          last = news.status;
        }
        if (screen && last !== null) process.stdout.write(`\x1b[H\x1b[J${drawing(last, lines)}`);
      });
    } finally {
      if (screen) process.stdout.write('\x1b[?25h');
    }
  });
}

const lineWords = (line: RecentLine): string => `${clockTime(line.at)} ${line.direction === null ? '   ' : line.direction.padEnd(3)} ${line.words}`;

const summary = (status: GateStatus): string =>
  `${status.gate}: ${status.modes.in.mode}, ${plural(status.totals.admissions, 'admission')}, ${plural(status.totals.refusals, 'refusal')}, ${backlogWords(status)}, broker ${status.uplink.url === null ? 'none' : status.uplink.online ? 'online' : 'offline'}`;

function drawing(status: GateStatus, lines: readonly RecentLine[]): string {
  const directions = (['in', 'out'] as const).filter((direction) => direction === 'in' || status.readers.some((reader) => reader.direction === 'out'));
  return [
    `\x1b[1m${status.gate}\x1b[0m  ${new Date().toTimeString().slice(0, 8)}   (Ctrl-C ends)`,
    '',
    ...directions.map((direction) => laneWords(status, direction)),
    '',
    `${plural(status.totals.admissions, 'admission')}, ${plural(status.totals.refusals, 'refusal')}, ${plural(status.totals.passages, 'passage')}; ${backlogWords(status)}`,
    `broker ${status.uplink.url === null ? 'none' : status.uplink.online ? paint('green', 'online') : paint('red', 'offline')}, clock ${status.clock.trusted ? 'trusted' : paint('red', 'not trusted')}, readers ${status.readers.map((reader) => `${reader.name} ${reader.ok ? paint('green', 'ok') : paint('red', 'down')}`).join(', ')}`,
    ...status.alerts.map((alert) => paint('red', `! ${alert.message} (for ${ageOf(alert.since)})`)),
    '',
    ...lines.map((line) => (KIND_COLOURS[line.kind] === undefined ? lineWords(line) : paint(KIND_COLOURS[line.kind] as keyof typeof COLOUR, lineWords(line)))),
    '',
  ].join('\n');
}

function laneWords(status: GateStatus, direction: Direction): string {
  const lamp = (colour: 'green' | 'red' | 'amber') => (status.lamps[direction][colour] ? paint(colour, '●') : paint('grey', '○'));
  const { mode, until } = status.modes[direction];
  return `${direction.padEnd(3)} ${lamp('green')} ${lamp('amber')} ${lamp('red')}  ${mode}${until === null ? '' : ` until ${clockTime(until)}`}, ${status.signals[direction].replaceAll('_', ' ')}`;
}
