import { stileVersion } from '../../runtime/build-info.ts';
import type { Config } from '../config/load.ts';
import { createClock, type GateClock } from './clock.ts';

/** The clock of a gate: never believed below the time when its program, or its certificate, was made. */
export function gateClock(config: Config): GateClock {
  return createClock({ floorMs: Math.max(stileVersion().builtAtMs, config.certificate?.notBeforeMs ?? 0) });
}
