/**
 * GPIO by sysfs, through onoff. The only file that imports onoff, and only when a board is opened: its native part may be
 * missing on a machine without GPIO, and that must be a fault with a hint, not a crash.
 *
 * What is active low is inverted here, never by sysfs, so `direction` and `value` always speak of the wire. sysfs cannot
 * set an input's bias: the firmware does (lines.ts, firmwareLines), or a resistor. Outputs are not unexported, neither at the
 * start nor at the end: a line that is given back may float until it is claimed again, and a lane would open for an instant.
 */
import { accessSync, constants, existsSync, writeFileSync } from 'node:fs';
import type { BoardEvent, Clock, Fault, InputName, OutputName } from '../ports.ts';
import { OPEN_WAIT_MS, untilDeadline, withFault } from './claim-retry.ts';
import type { LaneBoard } from './failsafe-file.ts';
import { findChip, type GpioChip, SYSFS_ROOT } from './gpio-chip.ts';
import { type BoardConfig, type InputLine, type Level, normaliseLines, type OutputLine, safeLevel, wireLevel } from './pin-map.ts';

/** The part of onoff's Gpio that the board uses. */
export interface Pin {
  readSync(): 0 | 1;
  writeSync(value: 0 | 1): void;
  watch(callback: (error: Error | null | undefined, value: 0 | 1) => void): void;
  direction(): string;
  setDirection(direction: Level): void;
  edge(): string;
  activeLow(): boolean;
  unexport(): void;
}
export type PinConstructor = new (gpio: number, direction: 'in' | Level, edge: 'none' | 'both', options: { activeLow: boolean }) => Pin;

export interface OnoffBoardOptions {
  readonly config: Pick<BoardConfig, 'outputs' | 'inputs'>;
  /** Tells at `open` whether fire is latched: the releases are then claimed open, so that a restart does not shut them for a moment. */
  readonly startOpen?: () => boolean;
  /** For tests: another tree than the kernel's, and what works on it. */
  readonly root?: string;
  readonly load?: () => Promise<PinConstructor>;
  /** How long lines that are not to be had yet are tried for. */
  readonly openWaitMs?: number;
}

/** Levels are read as well as edges awaited: an edge can be missed. */
const LEVELS_MS = 250;

interface Claimed<L> {
  readonly line: L;
  readonly pin: Pin;
}

export function createOnoffBoard(options: OnoffBoardOptions, clock: Pick<Clock, 'boottimeMs'>): LaneBoard {
  const { root = SYSFS_ROOT, load = loadOnoff, openWaitMs = OPEN_WAIT_MS } = options;
  const lines = normaliseLines(options.config);
  const names = new Set<string>([...lines.outputs, ...lines.inputs].map(({ name }) => name));
  const outputs = new Map<OutputName, Claimed<OutputLine>>();
  const inputs = new Map<InputName, Claimed<InputLine>>();
  const levels = new Map<InputName, boolean>();
  const broken = new Set<string>();
  let chip: GpioChip | null = null;
  let listener: ((event: BoardEvent) => void) | null = null;
  let failed: ((fault: Fault) => void) | null = null;
  let timer: NodeJS.Timeout | undefined;

  /** Reports a line that failed once, until it works again. */
  const report = (operation: string, name: string, error: unknown): Error => {
    const fault: Fault = {
      operation: `${operation} ${name}`,
      cause: (error as Error).message ?? String(error),
      hint: "check the board's plug and its 3.3 V; stile-gate doctor names the line",
      healsItself: true,
    };
    if (!broken.has(name)) failed?.(fault);
    broken.add(name);
    return Object.assign(new Error(`${fault.operation}: ${fault.cause}`), { fault });
  };

  const see = (input: InputName, active: boolean): void => {
    if (listener === null || levels.get(input) === active) return;
    levels.set(input, active);
    listener({ kind: 'input', input, active, atMs: clock.boottimeMs() });
  };

  const readLine = ({ line, pin }: Claimed<InputLine>): boolean => {
    const active = (pin.readSync() === 1 ? 'high' : 'low') === line.active;
    broken.delete(line.name);
    return active;
  };

  const readAll = (): void => {
    for (const claimed of inputs.values()) {
      try {
        see(claimed.line.name, readLine(claimed));
      } catch (error) {
        report('read', claimed.line.name, error);
      }
    }
  };

  const giveBackInputs = (): void => {
    for (const { pin } of inputs.values()) {
      try {
        pin.unexport();
      } catch {
        // Gone with its chip; nothing is left to give back.
      }
    }
    inputs.clear();
  };

  const claimAll = async (Gpio: PinConstructor, open: boolean): Promise<void> => {
    const deadlineMs = clock.boottimeMs() + openWaitMs;
    const found = await untilDeadline(clock, deadlineMs, () => {
      const result = findChip(root);
      if ('missing' in result) throw Object.assign(new Error(result.missing), { code: 'ENOENT' });
      return result;
    });
    chip = found;
    for (const line of lines.outputs) {
      const level = safeLevel(line, open);
      const pin = await untilDeadline(clock, deadlineMs, () => claimOutput(Gpio, root, found.base + line.line, level, outputs.get(line.name)?.pin));
      outputs.set(line.name, { line, pin });
    }
    for (const line of lines.inputs) {
      const number = found.base + line.line;
      // Whoever exported it may have set it up in any way: it is given back first, once.
      await untilDeadline(clock, deadlineMs, () => unexport(root, number));
      inputs.set(line.name, { line, pin: await untilDeadline(clock, deadlineMs, () => claimInput(Gpio, root, number)) });
    }
  };

  return {
    describe: () => (chip === null ? 'onoff' : `onoff (sysfs, ${chip.label} at ${chip.base})`),
    async open(givenListener, givenFailed) {
      if (listener !== null) throw new Error('board: opened twice; close it first');
      const Gpio = await load().catch((error: Error) => {
        throw withFault(
          'load onoff',
          error.message,
          'install the gate with deploy/install, or build the native part with "npm rebuild epoll"; on a machine without GPIO set board.driver: sim',
        );
      });
      try {
        await claimAll(Gpio, options.startOpen?.() ?? false);
      } catch (error) {
        giveBackInputs();
        throw withFault("claim the board's lines", (error as Error).message, claimHint((error as NodeJS.ErrnoException).code));
      }
      listener = givenListener;
      failed = givenFailed;
      levels.clear();
      readAll();
      for (const claimed of inputs.values()) {
        const { pin, line } = claimed;
        pin.watch((error, value) => (error ? report('read', line.name, error) : see(line.name, (value === 1 ? 'high' : 'low') === line.active)));
      }
      timer = setInterval(readAll, LEVELS_MS);
    },
    has: (name) => names.has(name),
    write(output, active) {
      if (!names.has(output)) return;
      const claimed = outputs.get(output);
      if (claimed === undefined || listener === null) throw new Error(`write ${output}: the board is not open`);
      try {
        claimed.pin.writeSync(wireLevel(claimed.line, active) === 'high' ? 1 : 0);
        broken.delete(output);
      } catch (error) {
        throw report('write', output, error);
      }
    },
    read(input) {
      const claimed = inputs.get(input);
      if (claimed === undefined) return false;
      try {
        return readLine(claimed);
      } catch (error) {
        throw report('read', input, error);
      }
    },
    async close({ releaseOpen }) {
      if (listener === null) return;
      clearInterval(timer);
      for (const { line, pin } of outputs.values()) {
        try {
          pin.writeSync(safeLevel(line, releaseOpen) === 'high' ? 1 : 0);
        } catch (error) {
          report('write', line.name, error);
        }
      }
      listener = null;
      giveBackInputs();
    },
    ok: () => listener !== null && broken.size === 0,
    releaseTargets(releaseOpen) {
      const base = chip?.base;
      if (base === undefined) throw new Error('the board has not been opened: the numbers of its lines are not known');
      return lines.outputs.map((line) => ({ kind: 'sysfs', number: base + line.line, level: safeLevel(line, releaseOpen) }));
    },
  };
}

async function loadOnoff(): Promise<PinConstructor> {
  // A CommonJS library: Node gives its exports by name, the bundle only as a whole.
  const loaded = (await import('onoff')) as { readonly Gpio?: PinConstructor; readonly default?: { readonly Gpio: PinConstructor } };
  const Gpio = loaded.Gpio ?? loaded.default?.Gpio;
  if (Gpio === undefined) throw new Error('onoff gives no Gpio');
  return Gpio;
}

/**
 * Claims a line and drives it to `level` from the first moment, never by way of plain `out` (which is low). `before`: claimed by an earlier `open` of this
 * process.
 */
function claimOutput(Gpio: PinConstructor, root: string, number: number, level: Level, before: Pin | undefined): Pin {
  before?.setDirection(level);
  if (before === undefined) mayBeSetUp(root, number, ['direction', 'value', 'active_low']);
  const pin = before ?? new Gpio(number, level, 'none', { activeLow: false });
  // onoff swallows errors on a line that was exported already, so what it did is read back.
  if (pin.direction() === 'out' && !pin.activeLow() && pin.readSync() === (level === 'high' ? 1 : 0)) return pin;
  if (before === undefined) pin.unexport();
  throw Object.assign(new Error(`line ${number} does not take direction ${level}`), { code: 'EBUSY' });
}

function claimInput(Gpio: PinConstructor, root: string, number: number): Pin {
  mayBeSetUp(root, number, ['direction', 'value', 'active_low', 'edge']);
  const pin = new Gpio(number, 'in', 'both', { activeLow: false });
  if (pin.direction() === 'in' && pin.edge() === 'both' && !pin.activeLow()) return pin;
  pin.unexport();
  throw Object.assign(new Error(`line ${number} does not take direction in with edge both`), { code: 'EBUSY' });
}

/** A line that is exported already, by an attempt before udev came to it: waited for, since exporting it anew would make udev begin anew. */
function mayBeSetUp(root: string, number: number, attributes: readonly string[]): void {
  if (!existsSync(`${root}/gpio${number}`)) return;
  for (const attribute of attributes) accessSync(`${root}/gpio${number}/${attribute}`, constants.R_OK | constants.W_OK);
}

function unexport(root: string, number: number): void {
  if (existsSync(`${root}/gpio${number}`)) writeFileSync(`${root}/unexport`, String(number));
}

function claimHint(code: string | undefined): string {
  if (code === 'EACCES' || code === 'EPERM') return "the gate's user may not use GPIO: install the udev rules of deploy/ and put the user into the group gpio";
  if (code === 'EBUSY')
    return 'another driver or program has a line of the configuration: see /sys/kernel/debug/gpio, and config.txt for overlays (spi, i2c, uart)';
  if (code === 'ENOENT') return 'this kernel shows no GPIO by sysfs; on a machine without GPIO set board.driver: sim';
  return 'check board.outputs and board.inputs against the wiring; the numbers are BCM numbers';
}
