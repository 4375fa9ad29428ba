/**
 * Which driver drives the header: onoff where the kernel shows the header's chip by sysfs, else the character device.
 * Chosen at `open`, since at boot neither may be there yet.
 */
import { readdirSync } from 'node:fs';
import type { Clock } from '../ports.ts';
import { createCdevBoard } from './cdev-board.ts';
import { OPEN_WAIT_MS, untilDeadline } from './claim-retry.ts';
import type { LaneBoard } from './failsafe-file.ts';
import { findChip, SYSFS_ROOT } from './gpio-chip.ts';
import { createOnoffBoard } from './onoff-board.ts';
import { type BoardConfig, normaliseLines } from './pin-map.ts';

export interface GpioBoardOptions {
  readonly config: Pick<BoardConfig, 'outputs' | 'inputs'>;
  readonly startOpen?: () => boolean;
  /** For tests: another tree than the kernel's, and what is chosen from. */
  readonly root?: string;
  readonly onoff?: () => LaneBoard;
  readonly cdev?: () => LaneBoard;
  /** Tells whether there is a GPIO character device at all. */
  readonly hasDevice?: () => boolean;
  readonly openWaitMs?: number;
}

export function createGpioBoard(options: GpioBoardOptions, clock: Pick<Clock, 'boottimeMs'>): LaneBoard {
  const { root = SYSFS_ROOT, openWaitMs = OPEN_WAIT_MS, hasDevice = hasGpioDevice } = options;
  const { outputs, inputs } = normaliseLines(options.config);
  const names = new Set<string>([...outputs, ...inputs].map(({ name }) => name));
  const each = { config: options.config, openWaitMs, ...(options.startOpen && { startOpen: options.startOpen }) };
  const onoff = options.onoff ?? (() => createOnoffBoard({ ...each, root }, clock));
  const cdev = options.cdev ?? (() => createCdevBoard(each, clock));
  /** Once chosen it stays: it holds the outputs. */
  let chosen: LaneBoard | null = null;

  const choose = async (): Promise<LaneBoard> => {
    const bySysfs = await untilDeadline(clock, clock.boottimeMs() + openWaitMs, () => {
      if (!('missing' in findChip(root))) return true;
      if (hasDevice()) return false;
      throw Object.assign(new Error('no GPIO, neither by sysfs nor by a character device'), { code: 'ENOENT' });
      // Where it stays so, onoff's own fault says what is missing, at once: the wait is over.
    }).catch(() => null);
    if (bySysfs === null) return options.onoff?.() ?? createOnoffBoard({ ...each, root, openWaitMs: 0 }, clock);
    return bySysfs ? onoff() : cdev();
  };
  const open = (what: string): LaneBoard => {
    if (chosen === null) throw new Error(`${what}: the board is not open`);
    return chosen;
  };
  return {
    describe: () => chosen?.describe() ?? 'gpio',
    async open(listener, failed) {
      chosen ??= await choose();
      await chosen.open(listener, failed);
    },
    has: (name) => names.has(name),
    write(output, active) {
      if (names.has(output)) open(`write ${output}`).write(output, active);
    },
    read: (input) => names.has(input) && open(`read ${input}`).read(input),
    async close(how) {
      await chosen?.close(how);
    },
    ok: () => chosen?.ok() ?? false,
    releaseTargets(releaseOpen) {
      if (chosen === null) throw new Error('the board has not been opened: its lines are not known');
      return chosen.releaseTargets(releaseOpen);
    },
  };
}

/** Returns the lines that this machine offers, without claiming any: for `doctor`, while no gate runs. */
export function gpioOffer(root = SYSFS_ROOT): 'sysfs' | 'character device' | null {
  if (!('missing' in findChip(root))) return 'sysfs';
  return hasGpioDevice() ? 'character device' : null;
}

function hasGpioDevice(): boolean {
  return readdirSync('/dev').some((name) => /^gpiochip\d+$/.test(name));
}
