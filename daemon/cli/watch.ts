/** Implements watch: shows the lane live. On a terminal a screen; else, or with --json, a line for each event. */
import { shownText } from '../../contract/text.ts';
import type { GateStatus, WatchItem } from '../control/protocol.ts';
import { withGate } from './context.ts';
import { CliError } from './exit-codes.ts';
import { clockTime } from './format.ts';
import { healthPicture, lanePicture, lineText, summary } from './lane-view.ts';
import type { CommonOptions } from './options.ts';
import { createLastLines, type LastLines } from './recent-lines.ts';
import { hasTerminal, openScreen, paint } from './terminal.ts';

/** Longest time between two draws, in ms, since ages on the screen change. */
const REDRAW_MS = 1_000;

export async function watch(options: CommonOptions): Promise<void> {
  await withGate(options, async (gate) => {
    if (options.json === true || !hasTerminal()) return inLines(options.json === true, (item) => gate.call('watch', {}, item), gate.close);
    let ending = false;
    const last = createLastLines();
    const draw = () => {
      const status = last.status();
      if (status !== null) screen.draw(picture(status, last, screen.rows()));
    };
    const end = () => {
      ending = true;
      gate.close();
    };
    const screen = openScreen({ end, resized: draw, key: (key) => (key === 'q' || key === 'Q' ? end() : undefined) });
    const steady = setInterval(draw, REDRAW_MS);
    try {
      await gate.call('watch', {}, (item) => {
        last.take(item as WatchItem);
        draw();
      });
    } catch (error) {
      // This command closed the connection itself: a normal end.
      if (!ending || !(error instanceof CliError)) throw error;
    } finally {
      clearInterval(steady);
      screen.close();
    }
  });
}

async function inLines(json: boolean, call: (item: (item: unknown) => void) => Promise<unknown>, close: () => void): Promise<void> {
  const stop = () => {
    close();
    process.exit(0);
  };
  process.once('SIGINT', stop);
  process.once('SIGTERM', stop);
  let begun = false;
  await call((item) => {
    const news = item as WatchItem;
    if (json) return void process.stdout.write(shownText(`${JSON.stringify(news)}\n`));
    if ('line' in news) return void process.stdout.write(`${lineText(news.line)}\n`);
    if (!begun) process.stdout.write(`${[summary(news.status), ...news.status.recent.map(lineText)].join('\n')}\n`);
    begun = true;
  });
}

function picture(status: GateStatus, last: LastLines, rows: number): readonly string[] {
  const head = [
    `${paint('bold', status.gate)}  ${clockTime(new Date().toISOString())}  version ${status.version}   ${paint('grey', 'q ends')}`,
    '',
    ...lanePicture(status),
    '',
    ...healthPicture(status),
    '',
  ];
  const lines = last.below(head, rows);
  return [...head, ...(lines.length === 0 ? [paint('grey', 'nothing has happened yet')] : lines)];
}
