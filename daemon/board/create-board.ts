/** Which driver stands behind the Board port; gpio-board.ts chooses between the kernel's two ways. */
import type { Clock } from '../ports.ts';
import type { LaneBoard } from './failsafe-file.ts';
import { createGpioBoard } from './gpio-board.ts';
import type { BoardConfig } from './pin-map.ts';
import { createSimBoard } from './sim-board.ts';

export interface CreateBoardOptions {
  /** Tells at `open` whether fire is latched: the releases are then claimed open. */
  readonly startOpen?: () => boolean;
  /** Shows the lamps of a simulated lane with `simDraw`. Default: writes them to standard output. */
  readonly draw?: (line: string) => void;
}

/** Does nothing until `open`. */
export function createBoard(config: BoardConfig, clock: Pick<Clock, 'boottimeMs'>, options: CreateBoardOptions = {}): LaneBoard {
  switch (config.driver) {
    case 'sim':
      return createSimBoard({ config, ...options }, clock);
    case 'gpio':
      return createGpioBoard({ config, ...(options.startOpen && { startOpen: options.startOpen }) }, clock);
  }
}
