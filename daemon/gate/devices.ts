/** Turns board and reader events into lane inputs, and device faults into alerts. */
import type { Direction } from '../../contract/ids.ts';
import { cutText } from '../../contract/text.ts';
import type { LaneConfig } from '../lane/config.ts';
import { BOTH, type LaneState } from '../lane/types.ts';
import type { Log } from '../log/log.ts';
import { type Board, type BoardEvent, type Fault, INPUT_NAMES, type Reader, type ReaderEvent } from '../ports.ts';
import { MAX_DETAIL_CHARS, type Report } from './outcome.ts';

export interface Devices {
  /** Throws when the board cannot be opened. */
  openBoard(): Promise<void>;
  /** Gives the lane the level of every input at start. */
  readLevels(): void;
  openReaders(): void;
  boardOk(): boolean;
  boardFailed(fault: Fault): void;
  /** Clears or raises the alert `board` as the board says. */
  poll(): void;
  /** Passes the board's inputs to `listener`; meanwhile the lane gets only fire and the staff button. Returns the function that ends it. */
  tapInputs(listener: (event: BoardEvent) => void): () => void;
  /** Passes the reader of each code to `listener`, never the code. `keep`: the lane gets codes of outward readers alone. Returns the function that ends it. */
  tapReaders(listener: (reader: string) => void, keep: boolean): () => void;
  /** Returns the directions whose sensor lines are not wired: every grant would be returned there, so the release counts as the passage. */
  unsensedDirections(config: LaneConfig): readonly Direction[];
}

export interface DevicesOptions {
  readonly board: Board;
  readonly readers: readonly Reader[];
  readonly log: Log;
  readonly lane: () => LaneState;
  readonly report: Report;
}

export function createDevices(options: DevicesOptions): Devices {
  const { board, readers, log, lane, report } = options;
  const inputTaps = new Set<(event: BoardEvent) => void>();
  const readerTaps = new Map<(reader: string) => void, boolean>();
  let boardOk = false;

  function boardFailed(fault: Fault): void {
    if (boardOk) report({ kind: 'entry', note: { kind: 'fault', what: 'board', detail: cutText(`${fault.operation}: ${fault.cause}`, MAX_DETAIL_CHARS) } });
    boardOk = false;
    report({ kind: 'raise', alert: 'board', severity: 'critical', message: `${fault.operation}: ${fault.cause}. ${fault.hint}` });
  }

  function onBoard(event: BoardEvent): void {
    for (const tap of inputTaps) tap(event);
    // After the tap the board's level reads (every 250 ms) bring the lane up to date.
    if (inputTaps.size > 0 && event.input !== 'fire' && event.input !== 'button') return;
    report({ kind: 'lane_input', input: { kind: 'line', input: event.input, active: event.active, initial: false }, atMs: event.atMs });
  }

  function onReader(event: ReaderEvent): void {
    if (event.kind === 'frame') {
      for (const tap of readerTaps.keys()) tap(event.reader);
      // Out is never refused: a tap keeps no outward code from the lane.
      if ([...readerTaps.values()].includes(true) && event.direction !== 'out') return;
      return report({ kind: 'code_read', frame: event });
    }
    if (event.kind === 'coming') return report({ kind: 'code_arriving' });
    if (event.kind === 'garbled') return report({ kind: 'lane_input', input: { kind: 'garbled', direction: event.direction } });
    const alert = `reader-${event.reader}` as const;
    if (event.kind === 'up') report({ kind: 'clear', alert });
    else report({ kind: 'raise', alert, severity: 'critical', message: `${event.fault.operation}: ${event.fault.cause}. ${event.fault.hint}` });
    judgeReaders();
  }

  function judgeReaders(): void {
    for (const direction of BOTH) {
      const own = readers.filter((reader) => reader.direction === direction);
      const works = own.length === 0 || own.some((reader) => reader.ok());
      if (works !== lane()[direction].readerOk) report({ kind: 'lane_input', input: { kind: 'reader', direction, ok: works } });
    }
  }

  return {
    async openBoard() {
      await board.open(onBoard, boardFailed);
      boardOk = board.ok();
    },
    readLevels() {
      for (const input of INPUT_NAMES) {
        if (board.has(input)) report({ kind: 'lane_input', input: { kind: 'line', input, active: board.read(input), initial: true } });
      }
    },
    openReaders() {
      for (const reader of readers) reader.open(onReader);
      judgeReaders();
    },
    boardOk: () => boardOk,
    boardFailed,
    poll() {
      if (boardOk === board.ok()) return;
      boardOk = board.ok();
      if (boardOk) report({ kind: 'clear', alert: 'board' });
      else report({ kind: 'raise', alert: 'board', severity: 'critical', message: 'the board reports a fault' });
    },
    tapInputs(listener) {
      inputTaps.add(listener);
      return () => void inputTaps.delete(listener);
    },
    tapReaders(listener, keep) {
      readerTaps.set(listener, keep);
      return () => void readerTaps.delete(listener);
    },
    unsensedDirections(config) {
      const wired = (direction: Direction) => (config.sensor === 'beams' ? board.has('beam_a') && board.has('beam_b') : board.has(`passage_${direction}`));
      const missing = config.sensor === 'none' ? [] : BOTH.filter((direction) => !wired(direction));
      const blind = missing.filter((direction) => board.has(`release_${direction}`));
      if (blind.length > 0)
        log.warn('no passage line is configured: the release counts as the passage', { directions: blind.join(', '), sensor: config.sensor });
      return missing;
    },
  };
}
