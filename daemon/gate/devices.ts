/** Turns board and reader events into lane inputs, and device faults into alerts. */
import type { Direction } from '../../contract/ids.ts';
import { cutText } from '../../contract/text.ts';
import type { LaneConfig } from '../lane/config.ts';
import { BOTH, type LaneState } from '../lane/types.ts';
import type { Log } from '../log/log.ts';
import { type Board, type BoardEvent, type Clock, type Fault, INPUT_NAMES, type Reader, type ReaderEvent } from '../ports.ts';
import { MAX_DETAIL_CHARS, type Report } from './outcome.ts';
import { createReaderWatch, type ReaderWatch, withoutNoise } from './reader-watch.ts';

/** Least time between two rows that say that a reader went or came, ms: one that flutters writes no more. */
const READER_ROW_MS = 10_000;
/** Interval at which the gate looks for other programs on the readers' ports, ms. */
const HOLDERS_MS = 60_000;

export interface Devices {
  /** Counts and problems of the readers, by name. */
  readonly readers: Pick<ReaderWatch, 'counts' | 'problem'> & { decided(reader: string, unknown: boolean): void };
  /** Passes every event of the readers to `listener`, raw bytes included. Returns the function that ends it. */
  tapBytes(listener: (event: ReaderEvent) => void): () => void;
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
  readonly clock: Pick<Clock, 'boottimeMs'>;
  readonly log: Log;
  readonly lane: () => LaneState;
  readonly report: Report;
}

export function createDevices(options: DevicesOptions): Devices {
  const { board, readers, clock, log, lane, report } = options;
  const inputTaps = new Set<(event: BoardEvent) => void>();
  const readerTaps = new Map<(reader: string) => void, boolean>();
  const byteTaps = new Set<(event: ReaderEvent) => void>();
  const watch = createReaderWatch();
  /** By reader: what the last row said. */
  const recorded = new Map<string, { readonly up: boolean; readonly atMs: number }>();
  let holdersAtMs = clock.boottimeMs();
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
    watch.onEvent(event);
    for (const tap of byteTaps) tap(event);
    if (event.kind === 'bytes') return;
    if (event.kind === 'frame') {
      const bytes = withoutNoise(event.bytes);
      if (bytes.length === 0) return watch.onNoise(event.reader);
      for (const tap of readerTaps.keys()) tap(event.reader);
      // Out is never refused: a tap keeps no outward code from the lane.
      if ([...readerTaps.values()].includes(true) && event.direction !== 'out') return;
      return report({ kind: 'code_read', frame: { ...event, bytes } });
    }
    if (event.kind === 'coming') return report({ kind: 'code_arriving' });
    if (event.kind === 'garbled') {
      // A reader whose frames are all garbled is a fault and no guest. Out is never refused: there garbled frames open.
      if (event.direction === 'in' && watch.problem(event.reader) !== null) return;
      return report({ kind: 'lane_input', input: { kind: 'garbled', direction: event.direction } });
    }
    const alert = `reader-${event.reader}` as const;
    noteReader(event);
    if (event.kind === 'up') {
      watch.holders(event.reader, holdersOf(event.reader));
      report({ kind: 'clear', alert });
    } else report({ kind: 'raise', alert, severity: 'critical', message: `${event.fault.operation}: ${event.fault.cause}. ${event.fault.hint}` });
    judgeReaders();
  }

  const holdersOf = (reader: string): readonly string[] => readers.find(({ name }) => name === reader)?.holders?.() ?? [];

  /** Records that a reader went or came, at most once in READER_ROW_MS. */
  function noteReader(event: Extract<ReaderEvent, { kind: 'up' | 'down' }>): void {
    const up = event.kind === 'up';
    const before = recorded.get(event.reader);
    if (before === undefined) {
      // A reader that is not there yet has not gone: the alert says so.
      if (up) recorded.set(event.reader, { up, atMs: Number.NEGATIVE_INFINITY });
      return;
    }
    if (before.up === up || clock.boottimeMs() - before.atMs < READER_ROW_MS) return;
    recorded.set(event.reader, { up, atMs: clock.boottimeMs() });
    const detail = event.kind === 'up' ? `reader ${event.reader} works` : `${event.fault.operation}: ${event.fault.cause}`;
    report({ kind: 'entry', note: { kind: 'fault', what: 'reader', detail: cutText(detail, MAX_DETAIL_CHARS) } });
  }

  /** Raises or clears `reader-<name>` as the bytes of each open reader say. */
  function pollReaders(): void {
    const nowMs = clock.boottimeMs();
    watch.poll(nowMs);
    const isDue = nowMs - holdersAtMs >= HOLDERS_MS;
    if (isDue) holdersAtMs = nowMs;
    for (const reader of readers) {
      if (!reader.ok()) continue;
      if (isDue) watch.holders(reader.name, holdersOf(reader.name));
      const problem = watch.problem(reader.name);
      const alert = `reader-${reader.name}` as const;
      if (problem === null) report({ kind: 'clear', alert });
      else report({ kind: 'raise', alert, severity: 'warning', message: `reader ${reader.name}: ${problem.cause}. ${problem.hint}` });
    }
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
    readers: { counts: watch.counts, problem: watch.problem, decided: (reader, unknown) => watch.onDecision(reader, unknown, clock.boottimeMs()) },
    tapBytes(listener) {
      byteTaps.add(listener);
      return () => void byteTaps.delete(listener);
    },
    poll() {
      pollReaders();
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
