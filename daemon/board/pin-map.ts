/**
 * The lines of a lane as the drivers need them: from the `board:` section of the configuration to BCM numbers, wire levels
 * and defined states. Pure.
 */
import { INPUT_NAMES, type InputName, OUTPUT_NAMES, type OutputName } from '../ports.ts';

export type Level = 'high' | 'low';
export type Bias = 'pull-up' | 'pull-down' | 'none';

/** The `board:` section, defaults filled in. */
export interface BoardConfig {
  readonly driver: 'gpio' | 'sim';
  /** `safe` null: the inactive level. */
  readonly outputs: Readonly<Partial<Record<OutputName, { readonly line: number; readonly active: Level; readonly safe: Level | null }>>>;
  /** `debounceMs` null: as the turnstile's settings say; debouncing is the lane's. */
  readonly inputs: Readonly<
    Partial<Record<InputName, { readonly line: number; readonly active: Level; readonly bias: Bias; readonly debounceMs: number | null }>>
  >;
  /** Sim only (sim-board.ts). */
  readonly simSocket?: string | null;
  readonly simDraw?: boolean;
  readonly simGuest?: boolean;
  readonly simPassageMs?: number;
}

export interface OutputLine {
  readonly name: OutputName;
  /** BCM number. */
  readonly line: number;
  /** The wire's level when the output is active. */
  readonly active: Level;
  /** The wire's level at start, stop, crash and kill. */
  readonly safe: Level;
}

export interface InputLine {
  readonly name: InputName;
  readonly line: number;
  readonly active: Level;
  readonly bias: Bias;
  readonly debounceMs: number | null;
}

export interface Lines {
  readonly outputs: readonly OutputLine[];
  readonly inputs: readonly InputLine[];
}

/** Orders the lines as in ports.ts, whatever the order in the file. */
export function normaliseLines(config: Pick<BoardConfig, 'outputs' | 'inputs'>): Lines {
  const outputs = OUTPUT_NAMES.flatMap((name): OutputLine[] => {
    const given = config.outputs[name];
    return given === undefined ? [] : [{ name, line: given.line, active: given.active, safe: given.safe ?? opposite(given.active) }];
  });
  const inputs = INPUT_NAMES.flatMap((name): InputLine[] => {
    const given = config.inputs[name];
    return given === undefined ? [] : [{ name, line: given.line, active: given.active, bias: given.bias, debounceMs: given.debounceMs }];
  });
  return { outputs, inputs };
}

/** Returns the wire's level for an output that is logically `active`, and back. */
export const wireLevel = (line: Pick<OutputLine, 'active'>, active: boolean): Level => (active ? line.active : opposite(line.active));

const RELEASES: readonly OutputName[] = ['release_in', 'release_out'];

/**
 * Returns the defined state of an output. With `releaseOpen` (fire) the releases stand open and `stop`, which would hold the
 * turnstile against them, is let go.
 */
export function safeLevel(line: OutputLine, releaseOpen: boolean): Level {
  if (releaseOpen && RELEASES.includes(line.name)) return line.active;
  if (releaseOpen && line.name === 'stop') return opposite(line.active);
  return line.safe;
}

/** Returns the level a Pi gives a line from power-on until the firmware or the daemon says otherwise: pull-ups on BCM 0–8, pull-downs above. */
export const powerOnLevel = (line: number): Level => (line <= 8 ? 'high' : 'low');

/**
 * Lines for the Pi's config.txt: the firmware then drives outputs to their defined state, and sets the inputs' bias
 * (which sysfs cannot set), before the kernel starts.
 */
export function firmwareLines({ outputs, inputs }: Lines): string[] {
  const pull = { 'pull-up': 'pu', 'pull-down': 'pd', none: 'pn' } as const;
  return [
    ...outputs.map(({ line, safe }) => `gpio=${line}=op,${safe === 'high' ? 'dh' : 'dl'}`),
    ...inputs.map(({ line, bias }) => `gpio=${line}=ip,${pull[bias]}`),
  ];
}

function opposite(level: Level): Level {
  return level === 'high' ? 'low' : 'high';
}
