/**
 * What every driver of the Board port must do, whatever stands behind it: run for the simulated board and for onoff on a
 * stand-in tree by the unit tests, and on a real kernel by whoever has one. No test runner is needed.
 */
import assert from 'node:assert/strict';
import { setTimeout as wait } from 'node:timers/promises';
import type { BoardEvent, Fault, InputName, OutputName } from '../../ports.ts';
import type { LaneBoard } from '../failsafe-file.ts';
import type { BoardConfig, Level } from '../pin-map.ts';

export type ContractLane = Pick<BoardConfig, 'outputs' | 'inputs'>;

/** The lane of these tests: active-high and active-low lines, one output whose defined state is not the inactive one. */
export const CONTRACT_LANE: ContractLane = {
  outputs: {
    release_in: { line: 17, active: 'high', safe: null },
    release_out: { line: 27, active: 'low', safe: null },
    stop: { line: 5, active: 'high', safe: 'high' },
    green_in: { line: 22, active: 'low', safe: null },
    buzzer: { line: 25, active: 'high', safe: null },
  },
  inputs: {
    passage_in: { line: 20, active: 'low', bias: 'pull-up', debounceMs: null },
    passage_out: { line: 21, active: 'high', bias: 'pull-down', debounceMs: null },
    button: { line: 13, active: 'high', bias: 'pull-down', debounceMs: null },
    fire: { line: 19, active: 'low', bias: 'pull-down', debounceMs: null },
  },
};

const other = (level: Level): Level => (level === 'high' ? 'low' : 'high');

/** Returns the lane with every line wired the other way round. */
function inverted({ outputs, inputs }: ContractLane): ContractLane {
  const flipped = <T extends { readonly active: Level }>(lines: Readonly<Partial<Record<string, T>>>, change: (line: T) => T) =>
    Object.fromEntries(Object.entries(lines).map(([name, line]) => [name, change(line as T)]));
  return {
    outputs: flipped(outputs, (line) => ({ ...line, active: other(line.active), safe: line.safe === null ? null : other(line.safe) })),
    inputs: flipped(inputs, (line) => ({ ...line, active: other(line.active), bias: line.bias === 'pull-up' ? ('pull-down' as const) : ('pull-up' as const) })),
  };
}

/** Every line active-high in one of them and active-low in the other: a driver keeps the contract on both. */
export const CONTRACT_LANES: readonly { readonly polarity: string; readonly lane: ContractLane }[] = [
  { polarity: 'as wired', lane: CONTRACT_LANE },
  { polarity: 'wired the other way round', lane: inverted(CONTRACT_LANE) },
];

/** Returns the wire levels of a lane's inputs at rest; the harness brings the inputs to these before each test. */
export function inputsAtRest({ inputs }: ContractLane): Readonly<Partial<Record<InputName, Level>>> {
  return Object.fromEntries(Object.entries(inputs).map(([name, { active }]) => [name, other(active)]));
}
export const INPUTS_AT_REST = inputsAtRest(CONTRACT_LANE);

export interface BoardHarness {
  /** Closed, on `lane`, inputs at rest. The suite opens and closes it. */
  readonly board: LaneBoard;
  /** Absent: CONTRACT_LANE. */
  readonly lane?: ContractLane;
  /** The level on an output's wire, read past the board. */
  wire(output: OutputName): Level;
  /** Puts a level on an input's wire. */
  drive(input: InputName, level: Level): void;
  /** Makes writes fail, and work again; absent where that cannot be had. */
  readonly breakWrites?: (broken: boolean) => void;
}

export interface BoardTest {
  readonly name: string;
  run(harness: BoardHarness): Promise<void>;
}

/** An edge is reported within this, also on an emulated machine. */
const EDGE_WAIT_MS = 45_000;
/** Longer than the interval at which levels are read again. */
const QUIET_MS = 600;

/** Returns the wire's level of an output that is active or not. */
function outputLevel({ lane = CONTRACT_LANE }: BoardHarness, output: OutputName, active: boolean): Level {
  const level = lane.outputs[output]?.active ?? 'high';
  return active ? level : other(level);
}

/** Puts an input's wire to its active level, or to rest. */
function activate(harness: BoardHarness, input: InputName, active: boolean): void {
  const level = (harness.lane ?? CONTRACT_LANE).inputs[input]?.active ?? 'high';
  harness.drive(input, active ? level : other(level));
}

/** Returns every output with its level in the defined state. */
function safeLevels(harness: BoardHarness): readonly (readonly [OutputName, Level])[] {
  return Object.entries((harness.lane ?? CONTRACT_LANE).outputs).map(([name, { safe }]) => [
    name as OutputName,
    safe ?? outputLevel(harness, name as OutputName, false),
  ]);
}

/** Returns every output with its level in a fire: the releases active, the stop inactive, the rest in the defined state. */
function openLevels(harness: BoardHarness): readonly (readonly [OutputName, Level])[] {
  return safeLevels(harness).map(([output, safe]) => [
    output,
    output.startsWith('release') ? outputLevel(harness, output, true) : output === 'stop' ? outputLevel(harness, output, false) : safe,
  ]);
}

interface Opened {
  readonly board: LaneBoard;
  readonly events: BoardEvent[];
  readonly faults: Fault[];
}

async function opened({ board }: BoardHarness): Promise<Opened> {
  const events: BoardEvent[] = [];
  const faults: Fault[] = [];
  await board.open(
    (event) => events.push(event),
    (fault) => faults.push(fault),
  );
  return { board, events, faults };
}

async function until(what: string, holds: () => boolean): Promise<void> {
  const began = performance.now();
  while (!holds()) {
    if (performance.now() - began > EDGE_WAIT_MS) assert.fail(`not within ${EDGE_WAIT_MS} ms: ${what}`);
    await wait(5);
  }
}

export const BOARD_CONTRACT: readonly BoardTest[] = [
  {
    name: 'opens with every output in its defined state, and says that it is well',
    async run(harness) {
      assert.equal(harness.board.ok(), false);
      const { board } = await opened(harness);
      for (const [output, level] of safeLevels(harness)) assert.equal(harness.wire(output), level, output);
      assert.equal(board.ok(), true);
      await board.close({ releaseOpen: false });
    },
  },
  {
    name: 'reports every input once as a level when it opens, at rest and active',
    async run(harness) {
      activate(harness, 'button', true);
      activate(harness, 'passage_out', true);
      const { board, events } = await opened(harness);
      assert.deepEqual(
        events.map(({ input, active }) => [input, active]),
        [
          ['passage_in', false],
          ['passage_out', true],
          ['button', true],
          ['fire', false],
        ],
      );
      assert.deepEqual([board.read('passage_in'), board.read('passage_out'), board.read('button'), board.read('fire')], [false, true, true, false]);
      await board.close({ releaseOpen: false });
    },
  },
  {
    name: 'drives active-high and active-low outputs at once',
    async run(harness) {
      const { board } = await opened(harness);
      for (const active of [true, false, true]) {
        for (const output of ['release_in', 'release_out', 'stop', 'green_in', 'buzzer'] as const) {
          board.write(output, active);
          assert.equal(harness.wire(output), outputLevel(harness, output, active), output);
        }
      }
      await board.close({ releaseOpen: false });
    },
  },
  {
    name: 'reports both edges of an input, each once, in order of time',
    async run(harness) {
      const { board, events } = await opened(harness);
      const inputs = ['passage_in', 'passage_out', 'button'] as const;
      events.length = 0;
      for (const [index, input] of inputs.entries()) {
        activate(harness, input, true);
        await until(`${input} becomes active`, () => events.length === index * 2 + 1);
        assert.equal(board.read(input), true, input);
        activate(harness, input, false);
        await until(`${input} comes to rest`, () => events.length === index * 2 + 2);
      }
      await wait(QUIET_MS);
      assert.deepEqual(
        events.map(({ input, active }) => [input, active]),
        inputs.flatMap((input) => [
          [input, true],
          [input, false],
        ]),
      );
      for (const [index, { atMs }] of events.entries()) assert.ok((events[index - 1]?.atMs ?? 0) <= atMs);
      await board.close({ releaseOpen: false });
    },
  },
  {
    name: 'takes an opened fire loop for an alarm',
    async run(harness) {
      const { board, events } = await opened(harness);
      activate(harness, 'fire', true);
      await until('fire', () => events.some(({ input, active }) => input === 'fire' && active));
      assert.equal(board.read('fire'), true);
      await board.close({ releaseOpen: true });
    },
  },
  {
    name: 'knows its lines, and ignores an output that is not configured',
    async run(harness) {
      const { board, faults } = await opened(harness);
      assert.deepEqual([board.has('release_in'), board.has('fire'), board.has('red_out'), board.has('beam_a')], [true, true, false, false]);
      board.write('red_out', true);
      assert.deepEqual([faults.length, board.ok()], [0, true]);
      await board.close({ releaseOpen: false });
    },
  },
  {
    name: 'leaves every output in its defined state, and reports nothing afterwards',
    async run(harness) {
      const { board, events } = await opened(harness);
      for (const output of ['release_in', 'release_out', 'green_in', 'buzzer'] as const) board.write(output, true);
      board.write('stop', false);
      await board.close({ releaseOpen: false });
      for (const [output, level] of safeLevels(harness)) assert.equal(harness.wire(output), level, output);
      events.length = 0;
      activate(harness, 'button', true);
      await wait(QUIET_MS);
      assert.deepEqual([events.length, board.ok()], [0, false]);
      assert.throws(() => board.write('release_in', true), /not open/);
    },
  },
  {
    name: 'leaves the releases open and lets go of stop when it closes in a fire',
    async run(harness) {
      const { board } = await opened(harness);
      await board.close({ releaseOpen: true });
      for (const [output, level] of openLevels(harness)) assert.equal(harness.wire(output), level, output);
    },
  },
  {
    name: 'opens again after it was closed',
    async run(harness) {
      await (await opened(harness)).board.close({ releaseOpen: true });
      const { board, events } = await opened(harness);
      for (const [output, level] of safeLevels(harness)) assert.equal(harness.wire(output), level, output);
      assert.equal(events.length, Object.keys((harness.lane ?? CONTRACT_LANE).inputs).length);
      board.write('release_in', true);
      assert.equal(harness.wire('release_in'), outputLevel(harness, 'release_in', true));
      await board.close({ releaseOpen: false });
    },
  },
  {
    name: 'says what the stop step must do, for each output',
    async run(harness) {
      const { board } = await opened(harness);
      assert.deepEqual(
        board.releaseTargets(false).map(({ level }) => level),
        safeLevels(harness).map(([, level]) => level),
      );
      assert.deepEqual(
        board.releaseTargets(true).map(({ level }) => level),
        openLevels(harness).map(([, level]) => level),
      );
      await board.close({ releaseOpen: false });
    },
  },
  {
    name: 'throws and reports a write that fails, and is well again after one that works',
    async run(harness) {
      if (harness.breakWrites === undefined) return;
      const { board, faults } = await opened(harness);
      harness.breakWrites(true);
      assert.throws(
        () => board.write('release_in', true),
        (error: Error & { fault?: Fault }) => error.fault?.operation === 'write release_in',
      );
      assert.deepEqual([faults.length, board.ok(), harness.wire('release_in')], [1, false, outputLevel(harness, 'release_in', false)]);
      harness.breakWrites(false);
      board.write('release_in', true);
      assert.deepEqual([board.ok(), harness.wire('release_in')], [true, outputLevel(harness, 'release_in', true)]);
      await board.close({ releaseOpen: false });
    },
  },
];
