/**
 * Tests the lane: lamps and buzzer one after the other, the inputs at rest, each release while a person turns it, and,
 * with a watcher, each reader with a code. Runs only out of service; fire ends it at once. Reports which passage line answered
 * which release and which reader read which code, so that swapped lines are named.
 */
import type { Direction } from '../../contract/ids.ts';
import type { LaneConfig } from '../lane/config.ts';
import { isDriven } from '../lane/release.ts';
import { BOTH, type LaneState } from '../lane/types.ts';
import type { Board, BoardEvent, InputName, OutputName, Reader } from '../ports.ts';
import type { Timers } from '../timers.ts';
import type { Devices } from './devices.ts';
import type { Report } from './outcome.ts';
import type { Outputs } from './outputs.ts';

/** How long each lamp and the buzzer are on, ms. */
const LAMP_MS = 300;
/** The same with a watcher: long enough to be seen and named, ms. */
const WATCHED_LAMP_MS = 1_000;
/** Bounds the wait for a code at a reader, ms; beyond it the step warns. */
export const CODE_WAIT_MS = 20_000;
/** Interval at which the wait for a code is checked, ms. */
const CHECK_MS = 100;
const SIGNALS: readonly OutputName[] = ['green_in', 'amber_in', 'red_in', 'green_out', 'amber_out', 'red_out', 'buzzer'];
const LEVELS: readonly InputName[] = ['passage_in', 'passage_out', 'beam_a', 'beam_b', 'button', 'fire', 'tamper'];

export interface SelftestStep {
  readonly name: string;
  readonly result: 'ok' | 'warn' | 'fail' | 'absent';
  readonly detail: string;
}

/** The step that begins (and what the person at the lane shall do), then its result. */
export type SelftestNews = { readonly doing: string; readonly words: string } | { readonly step: SelftestStep };

/** A person at the lane. Readers are tested only with one: the step asks for a code. */
export interface SelftestWatcher {
  report(news: SelftestNews): void;
  /** Returns whether the person has left: the test ends. */
  gone(): boolean;
}

export interface SelftestOptions {
  readonly board: Board;
  readonly config: LaneConfig;
  readonly timers: Timers;
  readonly readers: readonly { readonly name: string; readonly direction: Direction; ok(): boolean }[];
  readonly write: (output: OutputName, active: boolean) => void;
  /** Returns the level that the lane itself wants of a release now: a way out that is open stays open. */
  readonly resting: (direction: Direction) => boolean;
  /** Returns the cause that ends the test (fire, the end of the process); null: go on. */
  readonly ended: () => string | null;
  /** Passes the board's inputs to the test; returns the function that ends it. */
  readonly tapInputs: (listener: (event: BoardEvent) => void) => () => void;
  /** Passes the reader of each code to the test; the lane does not get it. Returns the function that ends it. */
  readonly tapReaders: (listener: (reader: string) => void) => () => void;
  readonly watcher: SelftestWatcher | null;
}

/** Runs every step: a few seconds a direction; with a watcher up to CODE_WAIT_MS more a reader. */
export async function runSelftest(options: SelftestOptions): Promise<readonly SelftestStep[]> {
  const steps: SelftestStep[] = [];
  const tries: readonly (() => Promise<SelftestStep>)[] = [
    ...SIGNALS.filter((output) => options.board.has(output)).map((output) => () => tryOutput(options, output)),
    ...LEVELS.filter((input) => options.board.has(input)).map((input) => async () => tryLevel(options, input)),
    ...(['in', 'out'] as const).filter((direction) => options.board.has(`release_${direction}`)).map((direction) => () => tryRelease(options, direction)),
    ...(options.watcher === null ? [] : options.readers.map((reader) => () => tryReader(options, reader.name))),
  ];
  const add = (step: SelftestStep) => {
    steps.push(step);
    options.watcher?.report({ step });
  };
  // All off first, so that each is seen to come on: a way out that is in service shows its lamps.
  for (const output of SIGNALS) if (options.board.has(output)) options.write(output, false);
  for (const attempt of tries) {
    const why = endOf(options);
    if (why !== null) {
      add({ name: 'selftest', result: 'fail', detail: `ended ${why}` });
      break;
    }
    add(await attempt());
  }
  return steps;
}

const endOf = ({ ended, watcher }: SelftestOptions): string | null => ended() ?? (watcher?.gone() === true ? 'because the watcher has left' : null);
const wait = ({ timers }: SelftestOptions, ms: number) => new Promise<void>((resolve) => void timers.after(ms, resolve));

async function tryOutput(options: SelftestOptions, output: OutputName): Promise<SelftestStep> {
  const { board, write, watcher } = options;
  watcher?.report({ doing: output, words: output === 'buzzer' ? 'the buzzer sounds: is it heard?' : `lamp ${output} is lit: is it the right one?` });
  write(output, true);
  await wait(options, watcher === null ? LAMP_MS : WATCHED_LAMP_MS);
  if (options.ended() === null) write(output, false);
  return { name: output, result: board.ok() ? 'ok' : 'fail', detail: board.ok() ? 'was on: was it seen or heard?' : 'the board reports a fault' };
}

function tryLevel({ board }: SelftestOptions, input: InputName): SelftestStep {
  const active = board.read(input);
  return {
    name: input,
    result: active ? 'warn' : 'ok',
    detail: active ? 'is active while nobody is there: wrong "active" in the configuration, or it is stuck' : 'at rest',
  };
}

async function tryRelease(options: SelftestOptions, direction: Direction): Promise<SelftestStep> {
  const { board, config, write, ended, watcher } = options;
  const output: OutputName = `release_${direction}`;
  const seen: InputName[] = [];
  const stop = options.tapInputs((event) => {
    if (event.active && (event.input.startsWith('passage') || event.input.startsWith('beam'))) seen.push(event.input);
  });
  watcher?.report({ doing: output, words: `direction ${direction} is released: walk through ${direction === 'in' ? 'inwards' : 'outwards'} now` });
  write(output, true);
  await wait(options, config.release === 'hold' ? config.passageTimeoutMs : config.pulseMs);
  if (ended() === null) write(output, options.resting(direction));
  if (config.release === 'pulse' && config.sensor !== 'none') await wait(options, config.passageTimeoutMs);
  stop();
  const name = output;
  if (!board.ok()) return { name, result: 'fail', detail: 'the board reports a fault' };
  if (config.sensor === 'none') return { name, result: 'ok', detail: 'driven; no passage sensor is configured' };
  const [first] = seen;
  const expected: InputName = config.sensor === 'beams' ? (direction === 'in' ? 'beam_a' : 'beam_b') : `passage_${direction}`;
  if (first === undefined) return { name, result: 'warn', detail: `driven; ${expected} saw nobody: turn the turnstile while the test runs, or check the line` };
  if (first === expected) return { name, result: 'ok', detail: `driven; ${expected} saw the passage` };
  return { name, result: 'fail', detail: `driven; ${first} answered instead of ${expected}: the passage lines are swapped` };
}

async function tryReader(options: SelftestOptions, reader: string): Promise<SelftestStep> {
  const name = `reader ${reader}`;
  if (options.readers.some((one) => one.name === reader && !one.ok())) return { name, result: 'fail', detail: 'is not open: see stile-gate doctor' };
  let from: string | null = null;
  const stop = options.tapReaders((which) => {
    from ??= which;
  });
  options.watcher?.report({ doing: name, words: `show any code to the reader ${reader} (within ${CODE_WAIT_MS / 1_000} s)` });
  for (let waitedMs = 0; from === null && waitedMs < CODE_WAIT_MS && endOf(options) === null; waitedMs += CHECK_MS) await wait(options, CHECK_MS);
  stop();
  if (from === reader) return { name, result: 'ok', detail: 'read a code' };
  if (from !== null) return { name, result: 'fail', detail: `reader ${from} read it instead: the readers are swapped (stile-gate readers assign)` };
  return { name, result: 'warn', detail: 'no code came: none was shown, or the reader ends its codes otherwise than "frame" says' };
}

export interface SelftestParts {
  readonly board: Board;
  readonly config: () => LaneConfig;
  readonly devices: Pick<Devices, 'tapInputs' | 'tapReaders'>;
  readonly lane: () => LaneState;
  readonly outputs: Outputs;
  readonly readers: readonly Reader[];
  readonly timers: Timers;
  readonly isClosing: () => boolean;
  readonly report: Report;
}

/** Returns the function that runs one self-test at a time on the gate's own parts, and gives the lane back afterwards. */
export function createSelftest(parts: SelftestParts): (watcher: SelftestWatcher | null) => Promise<Record<string, unknown>> {
  const { board, config, devices, lane, outputs, readers, timers, isClosing, report } = parts;
  let giveLinesBack: (() => void) | null = null;

  return async function selftest(watcher) {
    if (giveLinesBack !== null) throw new Error('a self-test is running already');
    // A rotation during the test is no passage.
    giveLinesBack = devices.tapInputs(() => undefined);
    const stopWas = outputs.level('stop');
    outputs.write('stop', false);
    try {
      const steps = await runSelftest({
        board,
        config: config(),
        timers,
        write: outputs.write,
        resting: (direction) => isDriven(lane()[direction].release),
        readers,
        ended: () => (lane().fire.latched ? 'by the fire input' : isClosing() ? 'because the gate stops' : null),
        tapInputs: devices.tapInputs,
        tapReaders: (listener) => devices.tapReaders(listener, true),
        watcher,
      });
      for (const direction of BOTH) {
        const saw = steps.some(({ name, result, detail }) => name === `release_${direction}` && result === 'ok' && detail.endsWith('saw the passage'));
        if (saw) report({ kind: 'lane_input', input: { kind: 'sensor_tested', direction } });
      }
      return { steps };
    } finally {
      giveLinesBack();
      giveLinesBack = null;
      if (stopWas && lane().stopHeld && !lane().fire.latched) outputs.write('stop', true);
      for (const direction of BOTH) outputs.show(direction, lane()[direction].signal);
    }
  };
}
