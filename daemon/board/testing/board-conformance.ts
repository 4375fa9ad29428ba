/**
 * What every driver of the Board port must do, whatever stands behind it: run for the simulated board and for onoff on a
 * stand-in tree by the unit tests, and on a real kernel by whoever has one. No test runner is needed.
 */
import assert from 'node:assert/strict';
import { setTimeout as wait } from 'node:timers/promises';
import type { BoardEvent, Fault, InputName, OutputName } from '../../ports.ts';
import type { LaneBoard } from '../failsafe-file.ts';
import type { BoardConfig, Level } from '../pin-map.ts';

/** The lane of these tests: active-high and active-low lines, one output whose defined state is not the inactive one. */
export const CONTRACT_LANE: Pick<BoardConfig, 'outputs' | 'inputs'> = {
  outputs: {
    release_in: { line: 17, active: 'high', safe: null },
    release_out: { line: 27, active: 'low', safe: null },
    stop: { line: 5, active: 'high', safe: 'high' },
    green_in: { line: 22, active: 'low', safe: null },
    buzzer: { line: 25, active: 'high', safe: null },
  },
  inputs: {
    passage_in: { line: 20, active: 'low', bias: 'pull-up', debounceMs: null },
    button: { line: 13, active: 'high', bias: 'pull-down', debounceMs: null },
    fire: { line: 19, active: 'low', bias: 'pull-down', debounceMs: null },
  },
};
/** Wire levels at rest; the harness brings the inputs to these before each test. */
export const INPUTS_AT_REST: Readonly<Partial<Record<InputName, Level>>> = { passage_in: 'high', button: 'low', fire: 'high' };

export interface BoardHarness {
  /** Closed, on CONTRACT_LANE, inputs at rest. The suite opens and closes it. */
  readonly board: LaneBoard;
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

/** An edge is told within this, also on an emulated machine. */
const EDGE_WAIT_MS = 2_000;
/** Longer than the interval at which levels are read again. */
const QUIET_MS = 600;
const SAFE: readonly (readonly [OutputName, Level])[] = [
  ['release_in', 'low'],
  ['release_out', 'high'],
  ['stop', 'high'],
  ['green_in', 'high'],
  ['buzzer', 'low'],
];

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
      for (const [output, level] of SAFE) assert.equal(harness.wire(output), level, output);
      assert.equal(board.ok(), true);
      await board.close({ releaseOpen: false });
    },
  },
  {
    name: 'reports every input once as a level when it opens, at rest and active',
    async run(harness) {
      harness.drive('button', 'high');
      const { board, events } = await opened(harness);
      assert.deepEqual(
        events.map(({ input, active }) => [input, active]),
        [
          ['passage_in', false],
          ['button', true],
          ['fire', false],
        ],
      );
      assert.deepEqual([board.read('passage_in'), board.read('button'), board.read('fire')], [false, true, false]);
      await board.close({ releaseOpen: false });
    },
  },
  {
    name: 'drives active-high and active-low outputs at once',
    async run(harness) {
      const { board } = await opened(harness);
      for (const active of [true, false, true]) {
        board.write('release_in', active);
        board.write('release_out', active);
        assert.deepEqual([harness.wire('release_in'), harness.wire('release_out')], active ? ['high', 'low'] : ['low', 'high']);
      }
      await board.close({ releaseOpen: false });
    },
  },
  {
    name: 'reports both edges of an input, each once, in order of time',
    async run(harness) {
      const { board, events } = await opened(harness);
      events.length = 0;
      harness.drive('passage_in', 'low');
      await until('passage_in becomes active', () => events.length === 1);
      harness.drive('passage_in', 'high');
      await until('passage_in comes to rest', () => events.length === 2);
      await wait(QUIET_MS);
      assert.deepEqual(
        events.map(({ input, active }) => [input, active]),
        [
          ['passage_in', true],
          ['passage_in', false],
        ],
      );
      assert.ok((events[0]?.atMs ?? 0) <= (events[1]?.atMs ?? 0));
      await board.close({ releaseOpen: false });
    },
  },
  {
    name: 'takes an opened fire loop for an alarm',
    async run(harness) {
      const { board, events } = await opened(harness);
      harness.drive('fire', 'low');
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
      for (const [output, level] of SAFE) assert.equal(harness.wire(output), level, output);
      events.length = 0;
      harness.drive('button', 'high');
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
      assert.deepEqual([harness.wire('release_in'), harness.wire('release_out'), harness.wire('stop')], ['high', 'low', 'low']);
      assert.deepEqual([harness.wire('green_in'), harness.wire('buzzer')], ['high', 'low']);
    },
  },
  {
    name: 'opens again after it was closed',
    async run(harness) {
      await (await opened(harness)).board.close({ releaseOpen: true });
      const { board, events } = await opened(harness);
      for (const [output, level] of SAFE) assert.equal(harness.wire(output), level, output);
      assert.equal(events.length, 3);
      board.write('release_in', true);
      assert.equal(harness.wire('release_in'), 'high');
      await board.close({ releaseOpen: false });
    },
  },
  {
    name: 'says what the stop step must do, for each output',
    async run(harness) {
      const { board } = await opened(harness);
      assert.deepEqual(
        board.releaseTargets(false).map(({ level }) => level),
        SAFE.map(([, level]) => level),
      );
      assert.deepEqual(
        board.releaseTargets(true).map(({ level }) => level),
        ['high', 'low', 'low', 'high', 'low'],
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
      assert.deepEqual([faults.length, board.ok(), harness.wire('release_in')], [1, false, 'low']);
      harness.breakWrites(false);
      board.write('release_in', true);
      assert.deepEqual([board.ok(), harness.wire('release_in')], [true, 'high']);
      await board.close({ releaseOpen: false });
    },
  },
];
