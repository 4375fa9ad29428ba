/** What a screen of one gate shows: the status as last heard, and the last lines. Shared by `watch` and `sim`. */
import type { GateStatus, RecentLine, WatchItem } from '../control/protocol.ts';
import { paintedLine } from './lane-view.ts';

/** Kept for a screen that is made higher. */
export const KEPT_LINES = 200;

export interface LastLines {
  /** An item of the gate's `watch` call. The first status brings the lines of before. */
  take(item: WatchItem): void;
  /** Null before the first one came. */
  status(): GateStatus | null;
  /** Coloured, the newest last: as many as fit below `head` on a screen of `rows` rows, one at least. */
  below(head: readonly string[], rows: number): readonly string[];
}

export function createLastLines(): LastLines {
  const lines: RecentLine[] = [];
  let last: GateStatus | null = null;
  return {
    take(item) {
      if ('line' in item) lines.push(item.line);
      else {
        if (last === null) lines.push(...item.status.recent);
        last = item.status;
      }
      if (lines.length > KEPT_LINES) lines.splice(0, lines.length - KEPT_LINES);
    },
    status: () => last,
    below: (head, rows) => lines.slice(-Math.max(1, rows - 1 - head.length)).map(paintedLine),
  };
}
