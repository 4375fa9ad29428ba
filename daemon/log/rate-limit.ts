/**
 * Limits repeated log lines, so that they do not fill the journal: any sender of messages (a faulty peer, a stranger at the broker)
 * could trigger one line thousands of times a second.
 */

/** Most lines of one text within LIMIT_PERIOD_MS; further ones are counted. */
export const LIMIT_LINES = 5;
/** Period of the limit, in ms; at its end one line gives the count. */
export const LIMIT_PERIOD_MS = 60_000;
/** Most texts counted; one more evicts the oldest. */
export const MAX_LIMITED_TEXTS = 256;

export interface LogLimitOptions<Line> {
  readonly write: (line: Line) => void;
  /** Receives the last suppressed line and the number of suppressed ones, after a period. */
  readonly summary: (line: Line, leftOut: number) => void;
  /** Calls back once; must not keep the process alive. */
  readonly after: (ms: number, call: () => void) => void;
}

export interface LogLimit<Line> {
  /** Writes the line, or counts it. `text`: the key under which lines are counted. */
  take(text: string, line: Line): void;
  /** Writes every count now, at the end of the process. */
  flush(): void;
}

export function createLogLimit<Line>(options: LogLimitOptions<Line>): LogLimit<Line> {
  const known = new Map<string, { written: number; leftOut: number; last: Line | null }>();
  const summarise = (text: string): void => {
    const one = known.get(text);
    known.delete(text);
    if (one !== undefined && one.last !== null) options.summary(one.last, one.leftOut);
  };
  return {
    take(text, line) {
      let one = known.get(text);
      if (one === undefined) {
        if (known.size >= MAX_LIMITED_TEXTS) summarise(known.keys().next().value as string);
        const made = { written: 0, leftOut: 0, last: null };
        known.set(text, made);
        one = made;
        options.after(LIMIT_PERIOD_MS, () => {
          if (known.get(text) === made) summarise(text);
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
      for (const text of [...known.keys()]) summarise(text);
    },
  };
}
