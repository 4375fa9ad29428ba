/** Keeps the last status and the last lines of one gate, for `watch` and `sim`. */
import type { GateStatus, RecentLine, WatchItem } from '../control/protocol.ts';
import { paintedLine } from './lane-view.ts';

/** Most lines kept, for a screen that grows; the oldest is dropped. */
export const KEPT_LINES = 200;

export interface LastLines {
  /** Adds an item of the gate's `watch` call. The first status brings earlier lines. */
  take(item: WatchItem): void;
  /** Returns the last status; null before the first. */
  status(): GateStatus | null;
  /** Returns coloured lines, the newest last: as many as fit below `head` on a screen of `rows` rows, at least one. */
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
