/**
 * How one lane is set up: what the `turnstile:` section of gate.yaml says, ready for the pure lane.
 *
 * The configuration's schema is built on these types, defaults and bounds (snake_case in the file,
 * camelCase here; the same names otherwise).
 */

import type { Direction } from '../../contract/ids.ts';

/**
 * `pulse`: a short signal, the turnstile waits by its own timer (5 s on common models).
 * `hold`: the signal is held until the passage begins, or the time is up.
 */
export const RELEASES = ['pulse', 'hold'] as const;
export type Release = (typeof RELEASES)[number];

/** How a lane is kept free (mode free, and emergency): the signal held, or pulsed again after each passage and each expiry. */
export const FREE_BYS = ['hold', 'repulse'] as const;
export type FreeBy = (typeof FREE_BYS)[number];

/**
 * `none`: the release counts as the passage. `per_direction`: one line a direction, leading edge "started", trailing edge
 * "finished". `beams`: two light barriers; the order in which they are broken tells the direction.
 */
export const SENSORS = ['none', 'per_direction', 'beams'] as const;
export type Sensor = (typeof SENSORS)[number];

/** A code shown while a grant is open in its direction: `wait` shows busy, `queue` keeps it until the lane is idle. */
export const WHILE_OPENS = ['wait', 'queue'] as const;
export type WhileOpen = (typeof WHILE_OPENS)[number];

/**
 * `free`: the lane is open outwards, passages are counted. `code`: every code at an outward reader opens outwards at once, before anybody asks
 * whose it is, so that exits are known where re-entry or passback needs them.
 */
export const EXITS = ['free', 'code'] as const;
export type Exit = (typeof EXITS)[number];

/**
 * What follows when the passage sensor is blind. `alert`: the steward is asked whether the arms turn. `count_release`: the release counts as the
 * passage until the sensor speaks. `close`: in closes.
 */
export const SENSOR_FAULTS = ['alert', 'count_release', 'close'] as const;
export type SensorFault = (typeof SENSOR_FAULTS)[number];

/** Which way the staff button opens. */
export const BUTTONS = ['in', 'out', 'both'] as const;
export type Button = (typeof BUTTONS)[number];

/** `per_direction`: each direction has its lamps. `shared`: the lane has one set (the `_in` outputs), the more urgent signal shows. */
export const LAMP_SETS = ['per_direction', 'shared'] as const;
export type LampSet = (typeof LAMP_SETS)[number];

/** One lane. All times are milliseconds. */
export interface LaneConfig {
  readonly release: Release;
  /** Length of a release pulse. */
  readonly pulseMs: number;
  readonly freeBy: FreeBy;
  readonly sensor: Sensor;
  readonly sensorFault: SensorFault;
  /** So many grants in a row without a passage, whatever their codes, within 3 min: the sensor counts as blind. */
  readonly returnedInARow: number;
  /** So many returned grants of one ticket within 10 min: the guest is sent to the staff, and the ticket is not spent. */
  readonly returnedPerTicket: number;
  readonly exit: Exit;
  readonly button: Button;
  /** Directions whose sensor lines are not wired, found by the loop, not configured: there the release counts as the passage. */
  readonly unsensedDirections?: readonly Direction[];
  /** From the release until the passage must have begun. Without a sensor: how long one guest takes; the next code is heard after it. */
  readonly passageTimeoutMs: number;
  /** After that, before `returned` is committed: a passage begun by then belongs to the grant. */
  readonly passageGraceMs: number;
  /** Started and not finished for so long: `stuck`. */
  readonly stuckTimeoutMs: number;
  readonly whileOpen: WhileOpen;
  /** By reader: the interval at which it repeats a code that lies before it, where it was set or measured. Absent: learned. */
  readonly sameCodeIntervalMs?: Readonly<Record<string, number>>;
  /** The same code again within this shows the same verdict again and writes no row. */
  readonly repeatMs: number;
  readonly lamps: LampSet;
  /** Passage inputs: a level must hold for so long to count. Pulses of 5 ms are kept, shorter chatter is dropped. */
  readonly passageDebounceMs: number;
  /** Passage inputs: rest must hold for so long before a passage counts as finished, so that a bouncing contact is one passage. */
  readonly passageRestMs: number;
  /** The fire input must be active for so long: kicks of inductive loads are shorter. */
  readonly fireConfirmMs: number;
  /** The other inputs (button, tamper, keys). */
  readonly inputDebounceMs: number;
  /** No verdict for so long: the lamps say "wait". */
  readonly waitAfterMs: number;
  /** No verdict for so long after the code: refused with `error`, and the decision given up. */
  readonly refuseAfterMs: number;
  /** How long a refusal's red stays. */
  readonly refusedMs: number;
  /** How long red blinking and the buzzer say forced or stuck, at most. */
  readonly alarmMs: number;
}

export const DEFAULT_LANE_CONFIG: LaneConfig = {
  release: 'pulse',
  pulseMs: 200,
  freeBy: 'repulse',
  sensor: 'per_direction',
  sensorFault: 'alert',
  returnedInARow: 5,
  returnedPerTicket: 2,
  exit: 'free',
  button: 'both',
  passageTimeoutMs: 5_000,
  passageGraceMs: 1_500,
  stuckTimeoutMs: 30_000,
  whileOpen: 'wait',
  repeatMs: 4_000,
  lamps: 'per_direction',
  passageDebounceMs: 3,
  passageRestMs: 20,
  fireConfirmMs: 100,
  inputDebounceMs: 30,
  waitAfterMs: 250,
  refuseAfterMs: 2_800,
  refusedMs: 3_000,
  alarmMs: 10_000,
};

/** A pulse cannot keep a lane open; a held signal can. */
export const holdsFree = (config: Pick<LaneConfig, 'release' | 'freeBy'>): boolean => config.release === 'hold' || config.freeBy === 'hold';

/** Returns whether a sensor shows passages in this direction. */
export function hasSensor(config: LaneConfig, direction: Direction): boolean {
  return config.sensor !== 'none' && config.unsensedDirections?.includes(direction) !== true;
}

/** Least and greatest value of each figure, both allowed. Outside: a configuration error, named with its key. */
export const LANE_BOUNDS = {
  returnedInARow: { min: 2, max: 50 },
  returnedPerTicket: { min: 1, max: 20 },
  pulseMs: { min: 50, max: 5_000 },
  passageTimeoutMs: { min: 1_000, max: 60_000 },
  passageGraceMs: { min: 0, max: 10_000 },
  stuckTimeoutMs: { min: 5_000, max: 300_000 },
  repeatMs: { min: 0, max: 60_000 },
  passageDebounceMs: { min: 0, max: 100 },
  passageRestMs: { min: 0, max: 500 },
  fireConfirmMs: { min: 20, max: 200 },
  inputDebounceMs: { min: 0, max: 1_000 },
  waitAfterMs: { min: 50, max: 2_000 },
  /** The refusal is shown at the latest 3,000 ms after the code; the rest is for the loop. */
  refuseAfterMs: { min: 500, max: 2_950 },
  refusedMs: { min: 500, max: 10_000 },
  alarmMs: { min: 1_000, max: 10_000 },
} as const satisfies Partial<Record<keyof LaneConfig, { readonly min: number; readonly max: number }>>;
