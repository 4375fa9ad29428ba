import { createClock, type GateClock } from './clock.ts';
import type { Config } from './config.ts';
import { stileVersion } from './version.ts';

/** The clock of a gate: never believed below the time when its program, or its certificate, was made. */
export function gateClock(config: Config): GateClock {
  return createClock({ floorMs: Math.max(stileVersion().builtAtMs, config.certificate?.notBeforeMs ?? 0) });
}
