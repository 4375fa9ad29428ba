/** Draws on a terminal and reads keys; restores the terminal at the end, however it ends. */

const COLOUR = { green: 32, red: 31, amber: 33, grey: 90, bold: 1 } as const;
export type Colour = keyof typeof COLOUR;
/** Colours text, unless NO_COLOR is set. */
export const paint = (colour: Colour, text: string): string => (process.env.NO_COLOR ? text : `\x1b[${COLOUR[colour]}m${text}\x1b[0m`);

export interface Screen {
  readonly rows: () => number;
  /** Draws lines: omits those below the screen and cuts long ones. */
  draw(lines: readonly string[]): void;
  close(): void;
}

/** Returns whether standard output is a terminal. */
export const hasTerminal = (): boolean => process.stdout.isTTY === true;

/**
 * Opens the screen. `key`: receives a key or its sequence, when standard input is a terminal as well. `end`: called on Ctrl-C and signals.
 * `resized`: draw again.
 */
export function openScreen(options: { readonly key?: (key: string) => void; readonly end: () => void; readonly resized: () => void }): Screen {
  const { stdin, stdout } = process;
  let open = true;
  const onData = (text: string) => {
    for (const key of text.match(/\x1b\[[0-9;]*[A-Za-z~]|[\s\S]/g) ?? []) {
      if (key === '\x03') options.end();
      else options.key?.(key);
    }
  };
  const onSignal = () => options.end();
  const close = () => {
    if (!open) return;
    open = false;
    stdout.off('resize', options.resized);
    process.off('SIGINT', onSignal).off('SIGTERM', onSignal).off('SIGHUP', onSignal).off('exit', close);
    stdin.off('data', onData);
    if (stdin.isTTY === true) stdin.setRawMode(false);
    stdin.pause();
    stdout.write('\x1b[?25h\x1b[?1049l');
  };
  stdout.write('\x1b[?1049h\x1b[?25l\x1b[2J');
  stdout.on('resize', options.resized);
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal).on('SIGHUP', onSignal).on('exit', close);
  if (stdin.isTTY === true) {
    stdin.setRawMode(true);
    stdin.setEncoding('utf8').on('data', onData).resume();
  }
  return {
    rows: () => stdout.rows ?? 24,
    draw(lines) {
      if (!open) return;
      const shown = lines.slice(0, Math.max(1, (stdout.rows ?? 24) - 1));
      // Draws over line by line, to avoid flicker.
      stdout.write(`\x1b[H${shown.map((line) => `${cut(line, stdout.columns ?? 80)}\x1b[K`).join('\r\n')}\x1b[J`);
    },
    close,
  };
}

/** Cuts a line to `columns` visible characters; colours do not count. */
export function cut(line: string, columns: number): string {
  let visible = 0;
  let result = '';
  for (const [part] of line.matchAll(/\x1b\[[0-9;]*m|[\s\S]/gu)) {
    if (part.startsWith('\x1b')) {
      result += part;
      continue;
    }
    visible += 1;
    if (visible > columns) continue;
    result += visible === columns && [...line.replaceAll(/\x1b\[[0-9;]*m/g, '')].length > columns ? '…' : part;
  }
  return result;
}
