/**
 * GPIO by the character device (uAPI v2), for kernels without /sys/class/gpio. All outputs are one request to the kernel,
 * all inputs another, so a lane's outputs come to their levels in one step, and one descriptor tells of every edge.
 *
 * What is active low is inverted here, so everything below speaks of the wire. The inputs' bias is set by the kernel. The
 * outputs stay claimed after `close`, until the process ends: some kernels let go of a line that nobody holds.
 */
import type { Libc } from '../../runtime/libc.ts';
import type { BoardEvent, Clock, Fault, InputName, OutputName } from '../ports.ts';
import { OPEN_WAIT_MS, untilDeadline, withFault } from './claim-retry.ts';
import type { LaneBoard } from './failsafe-file.ts';
import { CHIP_LABELS } from './gpio-chip.ts';
import { createGpioCalls, type EdgeWatch, type GpioCalls } from './gpio-ioctl.ts';
import { type BoardConfig, type InputLine, normaliseLines, safeLevel, wireLevel } from './pin-map.ts';

export interface CdevBoardOptions {
  readonly config: Pick<BoardConfig, 'outputs' | 'inputs'>;
  /** Tells at `open` whether fire is latched: the releases are then claimed open, so that a restart does not shut them for a moment. */
  readonly startOpen?: () => boolean;
  /** For tests: what stands for the kernel. */
  readonly calls?: () => Promise<GpioCalls>;
  /** How long lines that are not to be had yet are tried for. */
  readonly openWaitMs?: number;
}

/** Levels are read as well as edges awaited: an edge can be missed. */
const LEVELS_MS = 250;

export interface FoundChip {
  readonly path: string;
  readonly label: string;
}

export function createCdevBoard(options: CdevBoardOptions, clock: Pick<Clock, 'boottimeMs'>): LaneBoard {
  const { calls: load = loadCalls, openWaitMs = OPEN_WAIT_MS } = options;
  const { outputs, inputs } = normaliseLines(options.config);
  const outputIndex = new Map(outputs.map(({ name }, index) => [name, index]));
  const inputIndex = new Map(inputs.map(({ name }, index) => [name, index]));
  const byLine = new Map(inputs.map((line) => [line.line, line]));
  const levels = new Map<InputName, boolean>();
  const broken = new Set<string>();
  let kernel: GpioCalls | null = null;
  let chip: FoundChip | null = null;
  /** Held from the first `open` on. */
  let outputFd: number | null = null;
  let inputFd: number | null = null;
  let watch: EdgeWatch | null = null;
  let listener: ((event: BoardEvent) => void) | null = null;
  let failed: ((fault: Fault) => void) | null = null;
  let timer: NodeJS.Timeout | undefined;

  /** Reports a line that failed once, until it works again. */
  const report = (operation: string, name: string, error: unknown): Error => {
    const cause = (error as Error).message ?? String(error);
    const fault: Fault = {
      operation: `${operation} ${name}`,
      cause,
      hint: "check the board's plug and its 3.3 V; stile-gate doctor names the line",
      healsItself: true,
    };
    if (!broken.has(name)) failed?.(fault);
    broken.add(name);
    return Object.assign(new Error(`${fault.operation}: ${cause}`), { fault });
  };

  const see = (input: InputName, active: boolean, atMs: number): void => {
    if (listener === null || levels.get(input) === active) return;
    levels.set(input, active);
    listener({ kind: 'input', input, active, atMs });
  };

  const readLine = (line: InputLine, index: number): boolean => {
    if (kernel === null || inputFd === null) return false;
    const active = kernel.get(inputFd, index, inputs.length) === line.active;
    broken.delete(line.name);
    return active;
  };

  const takeEdges = (): void => {
    // Both clocks stand still or run together while the gate does: the difference of now is that of the edge.
    const nowNs = process.hrtime.bigint();
    const nowMs = clock.boottimeMs();
    for (const { line, level, atNs } of watch?.take() ?? []) {
      const input = byLine.get(line);
      if (input !== undefined) see(input.name, level === input.active, nowMs - Number(nowNs - atNs) / 1e6);
    }
  };

  const readAll = (): void => {
    try {
      // Edges first: a level that is reported now comes after them in time.
      takeEdges();
    } catch (error) {
      report('read', 'edges', error);
    }
    for (const [index, line] of inputs.entries()) {
      try {
        see(line.name, readLine(line, index), clock.boottimeMs());
      } catch (error) {
        report('read', line.name, error);
      }
    }
  };

  /** The kernel refuses a whole request for one line: which, and who has it. */
  const nameHolder = (path: string, lines: readonly { readonly name: string; readonly line: number }[], error: unknown): never => {
    const held = lines.flatMap(({ name, line }) => {
      const holder = (error as NodeJS.ErrnoException).code === 'EBUSY' ? kernel?.holder(path, line) : null;
      return holder == null ? [] : [`line ${line} (${name}) is held by ${holder}`];
    });
    throw held.length === 0 ? error : Object.assign(new Error(held.join('; ')), { code: 'EBUSY' });
  };

  const claimAll = async (open: boolean): Promise<void> => {
    const gpio = kernel;
    if (gpio === null) return;
    const deadlineMs = clock.boottimeMs() + openWaitMs;
    const { path } = await untilDeadline(clock, deadlineMs, () => {
      const found = findChipDevice(gpio);
      if ('missing' in found) throw Object.assign(new Error(found.missing), { code: found.code });
      chip = found;
      return found;
    });
    if (outputFd !== null) {
      for (const [index, line] of outputs.entries()) gpio.set(outputFd, index, safeLevel(line, open));
    } else if (outputs.length > 0)
      outputFd = await untilDeadline(clock, deadlineMs, () => {
        try {
          return gpio.outputs(
            path,
            outputs.map((line) => ({ line: line.line, level: safeLevel(line, open) })),
          );
        } catch (error) {
          return nameHolder(path, outputs, error);
        }
      });
    if (inputs.length > 0)
      inputFd = await untilDeadline(clock, deadlineMs, () => {
        try {
          return gpio.inputs(path, inputs);
        } catch (error) {
          return nameHolder(path, inputs, error);
        }
      });
  };

  return {
    describe: () => (chip === null ? 'character device' : `character device (${chip.path}, ${chip.label})`),
    async open(givenListener, givenFailed) {
      if (listener !== null) throw new Error('board: opened twice; close it first');
      kernel ??= await load().catch((error: Error) => {
        throw withFault('load the C library', error.message, 'install the gate with deploy/install; on a machine without GPIO set board.driver: sim');
      });
      try {
        await claimAll(options.startOpen?.() ?? false);
      } catch (error) {
        throw withFault("claim the board's lines", (error as Error).message, claimHint((error as NodeJS.ErrnoException).code));
      }
      listener = givenListener;
      failed = givenFailed;
      levels.clear();
      if (inputFd !== null) watch = kernel.watch(inputFd, takeEdges, (error) => report('watch', 'inputs', error));
      readAll();
      timer = setInterval(readAll, LEVELS_MS);
    },
    has: (name) => outputIndex.has(name as OutputName) || inputIndex.has(name as InputName),
    write(output, active) {
      const index = outputIndex.get(output);
      const line = index === undefined ? undefined : outputs[index];
      if (index === undefined || line === undefined) return;
      if (kernel === null || outputFd === null || listener === null) throw new Error(`write ${output}: the board is not open`);
      try {
        kernel.set(outputFd, index, wireLevel(line, active));
        broken.delete(output);
      } catch (error) {
        throw report('write', output, error);
      }
    },
    read(input) {
      const index = inputIndex.get(input);
      const line = index === undefined ? undefined : inputs[index];
      if (index === undefined || line === undefined) return false;
      try {
        return readLine(line, index);
      } catch (error) {
        throw report('read', input, error);
      }
    },
    async close({ releaseOpen }) {
      if (listener === null || kernel === null) return;
      clearInterval(timer);
      for (const [index, line] of outputs.entries()) {
        try {
          if (outputFd !== null) kernel.set(outputFd, index, safeLevel(line, releaseOpen));
        } catch (error) {
          report('write', line.name, error);
        }
      }
      listener = null;
      const watching = watch;
      watch = null;
      inputFd = null;
      await watching?.end();
    },
    ok: () => listener !== null && broken.size === 0,
    releaseTargets(releaseOpen) {
      const path = chip?.path;
      if (path === undefined) throw new Error('the board has not been opened: the device of its lines is not known');
      return outputs.map((line) => ({ kind: 'chip', path, line: line.line, level: safeLevel(line, releaseOpen) }));
    },
  };
}

/** Returns the chip of the header, or a text why there is none. `code` EACCES: it may be one of those that we may not open (yet). */
export function findChipDevice(calls: Pick<GpioCalls, 'chips' | 'info'>): FoundChip | { readonly missing: string; readonly code: string } {
  const seen: string[] = [];
  let code = 'ENOENT';
  for (const path of calls.chips()) {
    try {
      const { label } = calls.info(path);
      if ((CHIP_LABELS as readonly string[]).includes(label)) return { path, label };
      seen.push(`${path} ${label}`);
    } catch (error) {
      code = (error as NodeJS.ErrnoException).code ?? 'EIO';
      seen.push(`${path} (${code})`);
    }
  }
  return { missing: `no GPIO chip labelled ${CHIP_LABELS.join(', ')}; there: ${seen.join(', ') || 'none'}`, code };
}

async function loadCalls(): Promise<GpioCalls> {
  const { loadLibc } = await import('../../runtime/libc.ts');
  const libc: Libc = loadLibc();
  return createGpioCalls(libc);
}

function claimHint(code: string | undefined): string {
  if (code === 'EACCES' || code === 'EPERM') return "the gate's user may not use GPIO: install the udev rules of deploy/ and put the user into the group gpio";
  if (code === 'EBUSY') return 'another driver or program has a line of the configuration: see config.txt for overlays (spi, i2c, uart)';
  if (code === 'ENOENT') return 'this kernel shows no GPIO of a Pi; on a machine without GPIO set board.driver: sim';
  return 'check board.outputs and board.inputs against the wiring; the numbers are BCM numbers';
}
