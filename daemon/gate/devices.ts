/** Board and readers as the loop meets them: what they report becomes inputs of the lane, what ails them alerts. */
import type { Direction } from '../../contract/ids.ts';
import { cutText } from '../../contract/text.ts';
import type { LaneConfig } from '../lane/config.ts';
import { BOTH, type LaneNote, type LaneState } from '../lane/types.ts';
import type { Log } from '../log/log.ts';
import { type Board, type BoardEvent, type Clock, type Fault, INPUT_NAMES, type Reader, type ReaderEvent } from '../ports.ts';
import type { Alerts } from './alerts.ts';
import type { UntimedInput } from './commands.ts';

/** Of a cause, in a row. */
const MAX_DETAIL_CHARS = 500;

export interface Peripherals {
  /** Throws where the board cannot be had. */
  openBoard(): Promise<void>;
  /** Tells the lane the level of every input, as it is at start. */
  readLevels(): void;
  openReaders(): void;
  boardOk(): boolean;
  boardFailed(fault: Fault): void;
  /** Call it from time to time: has the board healed? */
  around(): void;
  /** Hears the board's inputs too, while the lane hears only fire and the staff button; returns the end of it. */
  borrow(listener: (event: BoardEvent) => void): () => void;
  /** Hears which reader a code came from, never the code. `keep`: the lane does not get it (those of outward readers it always gets). Returns the end of it. */
  hear(listener: (reader: string) => void, keep: boolean): () => void;
  /** Directions whose sensor lines are not wired: there every grant would come back, so the release counts. */
  unsensedDirections(config: LaneConfig): readonly Direction[];
}

export interface PeripheralsOptions {
  readonly board: Board;
  readonly readers: readonly Reader[];
  readonly clock: Clock;
  readonly alerts: Alerts;
  readonly log: Log;
  readonly lane: () => LaneState;
  /** `atMs`: the edge's own time. */
  readonly dispatch: (input: UntimedInput, atMs?: number) => void;
  /** A code is on a reader's wire. */
  readonly coming: () => void;
  readonly present: (event: Extract<ReaderEvent, { kind: 'frame' }>) => UntimedInput;
  readonly note: (note: LaneNote) => void;
}

export function createPeripherals(options: PeripheralsOptions): Peripherals {
  const { board, readers, alerts, log, lane, dispatch } = options;
  const borrowers = new Set<(event: BoardEvent) => void>();
  const hearers = new Map<(reader: string) => void, boolean>();
  let good = false;

  function boardFailed(fault: Fault): void {
    if (good) options.note({ kind: 'fault', what: 'board', detail: cutText(`${fault.operation}: ${fault.cause}`, MAX_DETAIL_CHARS) });
    good = false;
    alerts.raise('board', 'critical', `${fault.operation}: ${fault.cause}. ${fault.hint}`);
  }

  function onBoard(event: BoardEvent): void {
    for (const borrower of borrowers) borrower(event);
    // Levels read every 250 ms bring the lane up to date once the lines are given back.
    if (borrowers.size > 0 && event.input !== 'fire' && event.input !== 'button') return;
    dispatch({ kind: 'line', input: event.input, active: event.active, initial: false }, event.atMs);
  }

  function onReader(event: ReaderEvent): void {
    if (event.kind === 'frame') {
      for (const hearer of hearers.keys()) hearer(event.reader);
      // Out is never refused, whoever listens.
      if ([...hearers.values()].includes(true) && event.direction !== 'out') return;
      return dispatch(options.present(event));
    }
    if (event.kind === 'coming') return options.coming();
    if (event.kind === 'garbled') return dispatch({ kind: 'garbled', direction: event.direction });
    if (event.kind === 'up') alerts.clear(`reader-${event.reader}`);
    else alerts.raise(`reader-${event.reader}`, 'critical', `${event.fault.operation}: ${event.fault.cause}. ${event.fault.hint}`);
    judgeReaders();
  }

  function judgeReaders(): void {
    for (const direction of BOTH) {
      const own = readers.filter((reader) => reader.direction === direction);
      const works = own.length === 0 || own.some((reader) => reader.ok());
      if (works !== lane()[direction].readerOk) dispatch({ kind: 'reader', direction, ok: works });
    }
  }

  return {
    async openBoard() {
      await board.open(onBoard, boardFailed);
      good = board.ok();
    },
    readLevels() {
      for (const input of INPUT_NAMES) {
        if (board.has(input)) dispatch({ kind: 'line', input, active: board.read(input), initial: true });
      }
    },
    openReaders() {
      for (const reader of readers) reader.open(onReader);
      judgeReaders();
    },
    boardOk: () => good,
    boardFailed,
    around() {
      if (good === board.ok()) return;
      good = board.ok();
      if (good) alerts.clear('board');
      else alerts.raise('board', 'critical', 'the board reports a fault');
    },
    borrow(listener) {
      borrowers.add(listener);
      return () => void borrowers.delete(listener);
    },
    hear(listener, keep) {
      hearers.set(listener, keep);
      return () => void hearers.delete(listener);
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
