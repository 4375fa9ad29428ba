/**
 * Keeps a line that comes again and again from filling the journal: whoever can send this gate messages (a peer gone wrong, a
 * stranger at the broker) can make it say the same thing thousands of times a second.
 */

/** Lines of one text that are written at once within LIMIT_PERIOD_MS; further ones are counted. */
export const LIMIT_LINES = 5;
/** After this the count is told by one line, and the text is written again. ms */
export const LIMIT_PERIOD_MS = 60_000;
/** Texts that are counted apart; with more, the longest known one begins anew. */
export const MAX_LIMITED_TEXTS = 256;

export interface LogLimitOptions<Line> {
  readonly write: (line: Line) => void;
  /** The last line that was left out, once a period has passed, and how many were. */
  readonly told: (line: Line, leftOut: number) => void;
  /** Calls back once; must not keep the process alive. */
  readonly after: (ms: number, call: () => void) => void;
}

export interface LogLimit<Line> {
  /** Writes the line, or counts it. `text`: what is the same for all of its kind. */
  take(text: string, line: Line): void;
  /** Tells every count now: the process ends. */
  flush(): void;
}

export function createLogLimit<Line>(options: LogLimitOptions<Line>): LogLimit<Line> {
  const known = new Map<string, { written: number; leftOut: number; last: Line | null }>();
  const tell = (text: string): void => {
    const one = known.get(text);
    known.delete(text);
    if (one !== undefined && one.last !== null) options.told(one.last, one.leftOut);
  };
  return {
    take(text, line) {
      let one = known.get(text);
      if (one === undefined) {
        if (known.size >= MAX_LIMITED_TEXTS) tell(known.keys().next().value as string);
        const made = { written: 0, leftOut: 0, last: null };
        known.set(text, made);
        one = made;
        options.after(LIMIT_PERIOD_MS, () => {
          if (known.get(text) === made) tell(text);
        });
      }
      if (one.written < LIMIT_LINES) {
        one.written += 1;
        options.write(line);
        return;
      }
      one.leftOut += 1;
      one.last = line;
    },
    flush() {
      for (const text of [...known.keys()]) tell(text);
    },
  };
}
