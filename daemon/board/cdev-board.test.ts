/** The character-device board on a stand-in for the kernel's calls; test/kernel runs the same contract on a real one. */
import { describe, expect, test } from 'vitest';
import type { Fault, InputName, OutputName } from '../ports.ts';
import { createCdevBoard, findChipDevice } from './cdev-board.ts';
import type { GpioCalls } from './gpio-ioctl.ts';
import type { Edge, InputRequest } from './gpio-structs.ts';
import type { Level } from './pin-map.ts';
import { BOARD_CONTRACT, CONTRACT_LANE, CONTRACT_LANES, type ContractLane, inputsAtRest } from './testing/board-conformance.ts';

const clock = { boottimeMs: () => performance.now() };
const CHIP = '/dev/gpiochip0';
const OUTPUTS = 100;
const INPUTS = 101;

interface Kernel {
  readonly calls: GpioCalls;
  readonly levels: Map<number, Level>;
  /** Changes an input's level, with its edge or (`quietly`) without. */
  set(line: number, level: Level, quietly?: boolean): void;
  /** How often chips are denied yet, as at boot. */
  denials: number;
  readonly held: Map<number, string>;
  readonly biases: InputRequest[];
  /** Every time outputs were claimed. */
  claims: number;
  broken: boolean;
  lose(): void;
}

function fail(code: string): never {
  throw Object.assign(new Error(`${code}: as the kernel would say`), { code });
}

function standIn(lane: ContractLane = CONTRACT_LANE): Kernel {
  let outputs: number[] = [];
  let inputs: number[] = [];
  let edges: Edge[] = [];
  let arrived: (() => void) | null = null;
  let lost: ((error: Error) => void) | null = null;
  const levels = new Map<number, Level>();
  for (const [name, level] of Object.entries(inputsAtRest(lane))) levels.set(inputLine(name as InputName), level);
  const kernel: Kernel = {
    levels,
    set(line, level, quietly = false) {
      if (levels.get(line) === level) return;
      levels.set(line, level);
      if (quietly || !inputs.includes(line)) return;
      edges.push({ line, level, atNs: process.hrtime.bigint() });
      const resolve = arrived;
      setImmediate(() => resolve?.());
    },
    denials: 0,
    held: new Map(),
    biases: [],
    claims: 0,
    broken: false,
    lose: () => lost?.(Object.assign(new Error('gone'), { code: 'ENODEV' })),
    calls: {
      chips: () => ['/dev/gpiochip9', CHIP],
      info(path) {
        if (kernel.denials > 0) {
          kernel.denials -= 1;
          fail('EACCES');
        }
        return path === CHIP ? { label: 'pinctrl-bcm2711', lines: 54 } : { label: 'brcmvirt-gpio', lines: 2 };
      },
      holder: (_, line) => kernel.held.get(line) ?? null,
      outputs(_, lines) {
        if (lines.some(({ line }) => kernel.held.has(line))) fail('EBUSY');
        kernel.claims += 1;
        outputs = lines.map(({ line }) => line);
        for (const { line, level } of lines) levels.set(line, level);
        return OUTPUTS;
      },
      inputs(_, lines) {
        if (lines.some(({ line }) => kernel.held.has(line))) fail('EBUSY');
        kernel.biases.push(...lines);
        inputs = lines.map(({ line }) => line);
        return INPUTS;
      },
      set(fd, index, level) {
        if (kernel.broken) fail('EIO');
        const line = outputs[index];
        if (fd !== OUTPUTS || line === undefined) return fail('EINVAL');
        levels.set(line, level);
      },
      get(fd, index, count) {
        const line = inputs[index];
        if (fd !== INPUTS || line === undefined || count !== inputs.length) return fail('EINVAL');
        return levels.get(line) ?? 'low';
      },
      watch(_, givenArrived, givenLost) {
        arrived = givenArrived;
        lost = givenLost;
        return {
          take: () => edges.splice(0),
          async end() {
            arrived = null;
            inputs = [];
            edges = [];
          },
        };
      },
      close: () => {},
    },
  };
  return kernel;
}

const boardOn = (kernel: Kernel, startOpen = false, lane: ContractLane = CONTRACT_LANE) =>
  createCdevBoard({ config: lane, calls: async () => kernel.calls, openWaitMs: 500, startOpen: () => startOpen }, clock);
const outputLine = (output: OutputName): number => CONTRACT_LANE.outputs[output]?.line ?? Number.NaN;
const inputLine = (input: InputName): number => CONTRACT_LANE.inputs[input]?.line ?? Number.NaN;
const nothing = () => {};

describe.each(CONTRACT_LANES)('the character-device board, on a stand-in, $polarity, keeps the contract:', ({ lane }) => {
  test.each(BOARD_CONTRACT)('$name', async ({ run }) => {
    const kernel = standIn(lane);
    await run({
      board: boardOn(kernel, false, lane),
      lane,
      wire: (output) => kernel.levels.get(outputLine(output)) ?? 'low',
      drive: (input, level) => kernel.set(inputLine(input), level),
      breakWrites: (broken) => {
        kernel.broken = broken;
      },
    });
  });
});

test.each([
  ['button', 'high', 'low'],
  ['passage_in', 'low', 'high'],
] as const)('edges of %s (active %s) are reported with the time that the kernel took, before the level that they led to (M4)', async (name, active, rest) => {
  const kernel = standIn();
  const board = boardOn(kernel);
  const seen: { active: boolean; atMs: number }[] = [];
  await board.open((event) => void (event.input === name && seen.push(event)), nothing);
  seen.length = 0;
  const line = inputLine(name);
  const before = clock.boottimeMs();
  kernel.set(line, active);
  kernel.set(line, rest);
  kernel.set(line, active);
  const after = clock.boottimeMs();
  // Blocked as by a long turn of the loop: the times are the edges' all the same.
  while (clock.boottimeMs() < after + 50);
  await expect.poll(() => seen.length).toBe(3);
  expect(seen.map((event) => event.active)).toEqual([true, false, true]);
  for (const { atMs } of seen) {
    expect(atMs).toBeGreaterThanOrEqual(before - 1);
    expect(atMs).toBeLessThanOrEqual(after + 1);
  }
  await board.close({ releaseOpen: false });
});

test('a missed edge is found by its level', async () => {
  const kernel = standIn();
  const board = boardOn(kernel);
  const events: string[] = [];
  await board.open(({ input, active }) => void events.push(`${input} ${active}`), nothing);
  events.length = 0;
  kernel.set(inputLine('fire'), 'low', true);
  await expect.poll(() => events).toEqual(['fire true']);
  await board.close({ releaseOpen: true });
});

test('says what drives the lines, what the stop step must do, and asks for each bias', async () => {
  const kernel = standIn();
  const board = boardOn(kernel);
  expect(() => board.releaseTargets(false)).toThrow('has not been opened');
  await board.open(nothing, nothing);
  expect(board.describe()).toBe('character device (/dev/gpiochip0, pinctrl-bcm2711)');
  expect(board.releaseTargets(false)[0]).toEqual({ kind: 'chip', path: CHIP, line: 17, level: 'low' });
  expect(kernel.biases.map(({ line, bias }) => [line, bias])).toEqual([
    [20, 'pull-up'],
    [21, 'pull-down'],
    [13, 'pull-down'],
    [19, 'pull-down'],
  ]);
  await board.close({ releaseOpen: false });
});

test('begins open while the fire latch is set, and never lets go of its outputs in between', async () => {
  const kernel = standIn();
  const board = boardOn(kernel, true);
  await board.open(nothing, nothing);
  expect([kernel.levels.get(17), kernel.levels.get(27), kernel.levels.get(5)]).toEqual(['high', 'low', 'low']);
  await board.close({ releaseOpen: true });
  await board.open(nothing, nothing);
  expect([kernel.levels.get(17), kernel.claims]).toEqual(['high', 1]);
  await board.close({ releaseOpen: true });
});

test('waits for udev where the chip is denied at boot', async () => {
  const kernel = standIn();
  kernel.denials = 3;
  const board = boardOn(kernel);
  await board.open(nothing, nothing);
  expect(board.ok()).toBe(true);
  await board.close({ releaseOpen: false });
});

test('names the line that another holds, and who; then names the hint where there is no chip', async () => {
  const rejection = (board: ReturnType<typeof boardOn>) => board.open(nothing, nothing).then(nothing, (error: { fault?: Fault }) => error.fault);
  const kernel = standIn();
  kernel.held.set(outputLine('buzzer'), 'spi0 CS1');
  expect(await rejection(boardOn(kernel))).toMatchObject({ cause: 'line 25 (buzzer) is held by spi0 CS1', hint: expect.stringContaining('overlays') });
  kernel.held.clear();
  kernel.denials = Number.POSITIVE_INFINITY;
  expect(await rejection(boardOn(kernel))).toMatchObject({ hint: expect.stringContaining('udev') });
  expect(findChipDevice({ chips: () => [], info: () => fail('EIO') })).toMatchObject({ code: 'ENOENT', missing: expect.stringContaining('there: none') });
});

test('a chip that goes away is a fault, reported once', async () => {
  const kernel = standIn();
  const faults: Fault[] = [];
  const board = boardOn(kernel);
  await board.open(nothing, (fault) => faults.push(fault));
  kernel.lose();
  kernel.lose();
  expect([faults.length, board.ok()]).toEqual([1, false]);
  await board.close({ releaseOpen: false });
});
