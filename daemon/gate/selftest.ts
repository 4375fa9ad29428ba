/**
 * The lane tries itself: lamps and buzzer one after the other, then each release with somebody turning it. Only out of
 * service; fire ends it at once. Says which passage line answered which release, so swapped lines are named.
 */
import type { Direction } from '../../contract/ids.ts';
import type { LaneConfig } from '../lane/config.ts';
import type { Board, BoardEvent, InputName, OutputName } from '../ports.ts';
import type { Timers } from './timers.ts';

/** Each lamp and the buzzer are on for so long, ms. */
const LAMP_MS = 300;
const SIGNALS: readonly OutputName[] = ['green_in', 'amber_in', 'red_in', 'green_out', 'amber_out', 'red_out', 'buzzer'];
const LEVELS: readonly InputName[] = ['passage_in', 'passage_out', 'beam_a', 'beam_b', 'button', 'fire', 'tamper'];

export interface SelftestStep {
  readonly name: string;
  readonly result: 'ok' | 'warn' | 'fail' | 'absent';
  readonly detail: string;
}

export interface SelftestOptions {
  readonly board: Board;
  readonly config: LaneConfig;
  readonly timers: Timers;
  readonly write: (output: OutputName, active: boolean) => void;
  /** Fire, or the end of the process: stop moving anything. */
  readonly ended: () => boolean;
  /** The board's inputs while it runs; returns the end of it. */
  readonly listen: (listener: (event: BoardEvent) => void) => () => void;
}

/** Takes a few seconds a direction. */
export async function runSelftest(options: SelftestOptions): Promise<readonly SelftestStep[]> {
  const { board, timers, write, ended } = options;
  const wait = (ms: number) => new Promise<void>((resolve) => void timers.after(ms, resolve));
  const steps: SelftestStep[] = [];
  for (const output of SIGNALS) {
    if (ended()) return [...steps, { name: 'selftest', result: 'fail', detail: 'ended by the fire input' }];
    if (!board.has(output)) continue;
    write(output, true);
    await wait(LAMP_MS);
    write(output, false);
    steps.push({ name: output, result: board.ok() ? 'ok' : 'fail', detail: board.ok() ? 'was on: was it seen or heard?' : 'the board reports a fault' });
  }
  for (const input of LEVELS) {
    if (!board.has(input)) continue;
    const active = board.read(input);
    steps.push({
      name: input,
      result: active ? 'warn' : 'ok',
      detail: active ? 'is active while nobody is there: wrong "active" in the configuration, or it is stuck' : 'at rest',
    });
  }
  for (const direction of ['in', 'out'] as const) {
    if (!board.has(`release_${direction}`)) continue;
    if (ended()) return [...steps, { name: 'selftest', result: 'fail', detail: 'ended by the fire input' }];
    steps.push(await tryRelease(options, direction, wait));
  }
  return steps;
}

async function tryRelease(options: SelftestOptions, direction: Direction, wait: (ms: number) => Promise<void>): Promise<SelftestStep> {
  const { board, config, write, ended } = options;
  const output: OutputName = `release_${direction}`;
  const seen: InputName[] = [];
  const stop = options.listen((event) => {
    if (event.active && (event.input.startsWith('passage') || event.input.startsWith('beam'))) seen.push(event.input);
  });
  write(output, true);
  await wait(config.release === 'hold' ? config.passageTimeoutMs : config.pulseMs);
  if (!ended()) write(output, false);
  if (config.release === 'pulse' && config.sensor !== 'none') await wait(config.passageTimeoutMs);
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
