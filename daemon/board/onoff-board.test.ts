/**
 * The board's own logic on a directory tree that looks like /sys/class/gpio, with a stand-in for onoff's Gpio that does to it
 * what the kernel would. Edges from a real kernel need one; BOARD_CONTRACT can be run there as it is.
 */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Fault, InputName, OutputName } from '../ports.ts';
import { createOnoffBoard, type OnoffBoardOptions, type Pin, type PinConstructor } from './onoff-board.ts';
import type { Level } from './pin-map.ts';
import { BOARD_CONTRACT, CONTRACT_LANE, CONTRACT_LANES, type ContractLane, inputsAtRest } from './testing/board-conformance.ts';

const BASE = 571;
const clock = { boottimeMs: () => performance.now() };
let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'stile-sysfs-'));
  for (const [name, label, base] of [
    ['gpiochip399', 'gpio-brcmstb', 399],
    [`gpiochip${BASE}`, 'pinctrl-rp1', BASE],
  ] as const) {
    mkdirSync(join(root, name));
    writeFileSync(join(root, name, 'label'), `${label}\n`);
    writeFileSync(join(root, name, 'base'), `${base}\n`);
    writeFileSync(join(root, name, 'ngpio'), '54\n');
  }
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

interface Kernel {
  readonly Gpio: PinConstructor;
  /** Changes a level, with its edge or (`quietly`) without. */
  set(number: number, level: Level, quietly?: boolean): void;
  read(number: number, attribute: string): string;
  /** Every `direction` that was written, in order, as "number direction". */
  readonly directions: string[];
  /** How often an export is denied yet, as at boot. */
  denials: number;
  /** For so long after each export the line is root's alone, until udev comes to it. */
  udevMs: number;
  /** Lines that another driver holds. */
  readonly busy: Set<number>;
  /** Exported lines on which onoff swallows the error of setting the direction. */
  readonly stubborn: Set<number>;
  broken: boolean;
}

function standIn(lane: ContractLane = CONTRACT_LANE): Kernel {
  const watchers = new Map<number, ((error: null, value: 0 | 1) => void)[]>();
  const path = (number: number, attribute = ''): string => join(root, `gpio${number}`, attribute);
  const put = (number: number, attribute: string, value: string): void => writeFileSync(path(number, attribute), `${value}\n`);
  const read = (number: number, attribute: string): string => readFileSync(path(number, attribute), 'utf8').trim();
  const fail = (code: string): never => {
    throw Object.assign(new Error(`${code}: as the kernel would say`), { code });
  };
  /** Removes the lines that the board wrote into `unexport`, as the kernel does. */
  const settle = (): void => {
    const asked = join(root, 'unexport');
    if (!existsSync(asked)) return;
    const number = Number(readFileSync(asked, 'utf8'));
    rmSync(asked);
    rmSync(path(number), { recursive: true, force: true });
    kernel.stubborn.delete(number);
  };
  class StandInGpio implements Pin {
    private readonly number: number;
    constructor(number: number, direction: 'in' | Level, edge: 'none' | 'both', options: { activeLow: boolean }) {
      settle();
      this.number = number;
      if (!existsSync(path(number))) {
        if (kernel.denials > 0) {
          kernel.denials -= 1;
          fail('EACCES');
        }
        if (kernel.busy.has(number)) fail('EBUSY');
        mkdirSync(path(number));
        exported.set(number, performance.now());
        const rest = Object.entries(lane.inputs).find(([, { line }]) => BASE + line === number)?.[0] as InputName | undefined;
        put(number, 'value', pending.get(number) ?? (rest && inputsAtRest(lane)[rest] === 'high' ? '1' : '0'));
        put(number, 'direction', 'in');
        put(number, 'edge', 'none');
        put(number, 'active_low', '0');
      }
      if (performance.now() - (exported.get(number) ?? 0) < kernel.udevMs) fail('EACCES');
      put(number, 'active_low', options.activeLow ? '1' : '0');
      if (!kernel.stubborn.has(number)) this.apply(direction);
      if (direction === 'in') put(number, 'edge', edge);
    }
    private apply(direction: 'in' | Level): void {
      kernel.directions.push(`${this.number} ${direction}`);
      put(this.number, 'direction', direction === 'in' ? 'in' : 'out');
      if (direction !== 'in') put(this.number, 'value', direction === 'high' ? '1' : '0');
    }
    readSync(): 0 | 1 {
      return read(this.number, 'value') === '1' ? 1 : 0;
    }
    writeSync(value: 0 | 1): void {
      if (kernel.broken) fail('EIO');
      put(this.number, 'value', String(value));
    }
    watch(callback: (error: null, value: 0 | 1) => void): void {
      watchers.set(this.number, [...(watchers.get(this.number) ?? []), callback]);
    }
    direction = (): string => read(this.number, 'direction');
    setDirection(direction: Level): void {
      this.apply(direction);
    }
    edge = (): string => read(this.number, 'edge');
    activeLow = (): boolean => read(this.number, 'active_low') === '1';
    unexport(): void {
      watchers.delete(this.number);
      kernel.stubborn.delete(this.number);
      rmSync(path(this.number), { recursive: true, force: true });
    }
  }
  const exported = new Map<number, number>();
  /** Levels on wires whose lines are not exported. */
  const pending = new Map<number, string>();
  const kernel: Kernel = {
    Gpio: StandInGpio,
    set(number, level, quietly = false) {
      const value = level === 'high' ? 1 : 0;
      pending.set(number, String(value));
      if (!existsSync(path(number))) return;
      put(number, 'value', String(value));
      if (!quietly) for (const watcher of watchers.get(number) ?? []) watcher(null, value);
    },
    read,
    directions: [],
    denials: 0,
    udevMs: 0,
    busy: new Set(),
    stubborn: new Set(),
    broken: false,
  };
  return kernel;
}

const boardOn = (kernel: Kernel, options: Partial<OnoffBoardOptions> = {}) =>
  createOnoffBoard({ config: CONTRACT_LANE, root, load: async () => kernel.Gpio, openWaitMs: 500, ...options }, clock);
const outputLine = (output: OutputName): number => BASE + (CONTRACT_LANE.outputs[output]?.line ?? Number.NaN);
const inputLine = (input: InputName): number => BASE + (CONTRACT_LANE.inputs[input]?.line ?? Number.NaN);

describe.each(CONTRACT_LANES)('the onoff board, on a stand-in tree, $polarity, keeps the contract:', ({ lane }) => {
  test.each(BOARD_CONTRACT)('$name', async ({ run }) => {
    const kernel = standIn(lane);
    await run({
      board: boardOn(kernel, { config: lane }),
      lane,
      wire: (output) => (kernel.read(outputLine(output), 'value') === '1' ? 'high' : 'low'),
      drive: (input, level) => kernel.set(inputLine(input), level),
      breakWrites: (broken) => {
        kernel.broken = broken;
      },
    });
  });
});

test('an edge is reported as it comes, whichever level is active, before any level is read again (M4)', async () => {
  const kernel = standIn();
  const board = boardOn(kernel);
  const events: string[] = [];
  await board.open(
    ({ input, active }) => events.push(`${input} ${active}`),
    () => {},
  );
  events.length = 0;
  for (const level of ['low', 'high'] as const) kernel.set(inputLine('fire'), level);
  for (const level of ['high', 'low'] as const) kernel.set(inputLine('button'), level);
  expect(events).toEqual(['fire true', 'fire false', 'button true', 'button false']);
  await board.close({ releaseOpen: true });
});

test('a missed edge is found by its level', async () => {
  const kernel = standIn();
  const board = boardOn(kernel);
  const events: string[] = [];
  await board.open(
    ({ input, active }) => events.push(`${input} ${active}`),
    () => {},
  );
  events.length = 0;
  kernel.set(inputLine('fire'), 'low', true);
  await expect.poll(() => events).toEqual(['fire true']);
  await board.close({ releaseOpen: true });
});

test("outputs are claimed at their level, never by way of plain out, and numbered from the chip's base", async () => {
  const kernel = standIn();
  const board = boardOn(kernel);
  await board.open(
    () => {},
    () => {},
  );
  expect(kernel.directions).toEqual(['588 low', '598 high', '576 high', '593 high', '596 low', '591 in', '592 in', '584 in', '590 in']);
  expect(board.releaseTargets(false)[0]).toEqual({ kind: 'sysfs', number: 588, level: 'low' });
  await board.close({ releaseOpen: false });
});

test('begins open while the fire latch is set, without shutting for a moment', async () => {
  const kernel = standIn();
  const before = boardOn(kernel);
  await before.open(
    () => {},
    () => {},
  );
  await before.close({ releaseOpen: true });
  kernel.directions.length = 0;
  const board = boardOn(kernel, { startOpen: () => true });
  await board.open(
    () => {},
    () => {},
  );
  expect(kernel.directions.slice(0, 3)).toEqual(['588 high', '598 low', '576 low']);
  await board.close({ releaseOpen: true });
});

test('waits for udev where the lines are denied at boot', async () => {
  const kernel = standIn();
  kernel.denials = 2;
  const board = boardOn(kernel);
  await board.open(
    () => {},
    () => {},
  );
  expect(board.ok()).toBe(true);
  await board.close({ releaseOpen: false });
});

test('waits for udev after each export, and does not make it begin anew', async () => {
  const kernel = standIn();
  kernel.udevMs = 250;
  const board = boardOn(kernel, { openWaitMs: 6_000 });
  await board.open(
    () => {},
    () => {},
  );
  expect(board.ok()).toBe(true);
  await board.close({ releaseOpen: false });
});

test('an exported line on which onoff swallowed its error is given back and claimed anew', async () => {
  const kernel = standIn();
  new kernel.Gpio(outputLine('release_in'), 'in', 'none', { activeLow: false });
  kernel.stubborn.add(outputLine('release_in'));
  const board = boardOn(kernel);
  await board.open(
    () => {},
    () => {},
  );
  expect(kernel.read(outputLine('release_in'), 'direction')).toBe('out');
  await board.close({ releaseOpen: false });
});

test('a line left active low by another program is read as it is', async () => {
  const kernel = standIn();
  new kernel.Gpio(inputLine('button'), 'in', 'none', { activeLow: true });
  const board = boardOn(kernel);
  await board.open(
    () => {},
    () => {},
  );
  expect(kernel.read(inputLine('button'), 'active_low')).toBe('0');
  await board.close({ releaseOpen: false });
});

const rejection = async (board: ReturnType<typeof boardOn>): Promise<Fault | undefined> =>
  board
    .open(
      () => {},
      () => {},
    )
    .then(
      () => undefined,
      (error: { fault?: Fault }) => error.fault,
    );

test('names the hint where a line is not to be had', async () => {
  const kernel = standIn();
  kernel.busy.add(outputLine('buzzer'));
  expect(await rejection(boardOn(kernel))).toMatchObject({ operation: "claim the board's lines", hint: expect.stringContaining('another driver') });
  kernel.busy.clear();
  kernel.denials = Number.POSITIVE_INFINITY;
  expect(await rejection(boardOn(kernel))).toMatchObject({ hint: expect.stringContaining('udev') });
  rmSync(join(root, `gpiochip${BASE}`), { recursive: true });
  expect(await rejection(boardOn(standIn()))).toMatchObject({
    cause: expect.stringContaining('gpio-brcmstb'),
    hint: expect.stringContaining('board.driver: sim'),
  });
});

test.skipIf(existsSync('/sys/class/gpio'))('a machine without GPIO gets a fault with a hint from the real onoff, not a crash', async () => {
  const fault = await rejection(createOnoffBoard({ config: CONTRACT_LANE, openWaitMs: 0 }, clock));
  expect(fault).toMatchObject({ healsItself: false, hint: expect.stringContaining('board.driver: sim') });
});
