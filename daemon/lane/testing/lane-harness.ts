/** A simulated time around the pure lane, for its tests: timers come back as inputs, effects are kept in order. */
import type { Direction, RowPosition } from '../../../contract/ids.ts';
import { DEFAULT_LANE_CONFIG, type LaneConfig } from '../config.ts';
import { initialLane, step } from '../state-machine.ts';
import type { LaneEffect, LaneInput, LaneLine, LaneNote, LaneState, TimerName } from '../types.ts';

/** A lane input without its times. */
export type Untimed = LaneInput extends infer I ? (I extends LaneInput ? Omit<I, 'atMs' | 'wallMs'> : never) : never;

export interface LaneWorld {
  /** Takes one input now; answers its effects. */
  send(input: Untimed): readonly LaneEffect[];
  /** Time passes; timers that are due come back, in their order. */
  wait(ms: number): readonly LaneEffect[];
  line(input: LaneLine, active: boolean): readonly LaneEffect[];
  /** A code is shown; answers its presentation's number and the effects. */
  show(code: string, direction?: Direction, reader?: string): { readonly presentation: number; readonly effects: readonly LaneEffect[] };
  /** The decision of a presentation arrives, committed. Answers its row and the effects. */
  grant(
    presentation: number,
    options?: { readonly units?: number; readonly attention?: boolean; readonly direction?: Direction },
  ): { readonly row: RowPosition; readonly effects: readonly LaneEffect[] };
  refuse(presentation: number, direction?: Direction): readonly LaneEffect[];
  /** A whole passage: begun, finished after `ms`, and long enough at rest to count. */
  pass(direction?: Direction, ms?: number): readonly LaneEffect[];
  state(): LaneState;
  nowMs(): number;
  /** Levels of the outputs as written. */
  driven(output: 'release_in' | 'release_out' | 'stop'): boolean;
  pendingEntries(): readonly LaneNote[];
  timers(): ReadonlyMap<TimerName, number>;
}

/** Wall time at boottime 0 of the world. */
export const WORLD_WALL_MS = Date.UTC(2026, 5, 1, 18, 0, 0);

/** Where a test says nothing else: exits are known by code, the staff button opens in, and fire counts at its first edge. */
export const WORLD_CONFIG = { exit: 'code', button: 'in', fireConfirmMs: 0 } as const satisfies Partial<LaneConfig>;

/** Starts booted, at rest, ready. */
export function createLaneWorld(config: Partial<LaneConfig> = {}): LaneWorld {
  const whole = { ...DEFAULT_LANE_CONFIG, ...WORLD_CONFIG, ...config };
  let state = initialLane();
  let nowMs = 1_000;
  let presentations = 0;
  let rows = 0;
  const timers = new Map<TimerName, number>();
  /** Exits that are open already, by their presentation. */
  const exits = new Map<number, number>();
  const outputs = new Map<string, boolean>();
  const pendingEntries: LaneNote[] = [];

  function send(input: Untimed): readonly LaneEffect[] {
    const result = step(state, { ...input, atMs: nowMs, wallMs: WORLD_WALL_MS + nowMs } as LaneInput, whole);
    state = result.state;
    for (const effect of result.effects) {
      if (effect.kind === 'set_timer') timers.set(effect.timer, effect.dueMs);
      else if (effect.kind === 'cancel_timer') timers.delete(effect.timer);
      else if (effect.kind === 'write') outputs.set(effect.output, effect.active);
      else if (effect.kind === 'decide' && effect.exit !== undefined) exits.set(effect.presentation, effect.exit);
      else if (effect.kind === 'record') pendingEntries.push(effect.note);
    }
    return result.effects;
  }

  function wait(ms: number): readonly LaneEffect[] {
    const untilMs = nowMs + ms;
    const effects: LaneEffect[] = [];
    for (;;) {
      const due = [...timers].filter(([, dueMs]) => dueMs <= untilMs).sort((a, b) => a[1] - b[1])[0];
      if (due === undefined) break;
      timers.delete(due[0]);
      nowMs = Math.max(nowMs, due[1]);
      effects.push(...send({ kind: 'timer', timer: due[0] }));
    }
    nowMs = untilMs;
    return effects;
  }

  const world: LaneWorld = {
    send,
    wait,
    line: (input, active) => send({ kind: 'line', input, active, initial: false }),
    show(code, direction = 'in', reader) {
      presentations += 1;
      return {
        presentation: presentations,
        effects: send({
          kind: 'code',
          direction,
          presentation: presentations,
          fingerprint: code,
          lastByteMs: nowMs,
          ...(reader === undefined ? {} : { reader }),
        }),
      };
    },
    grant(presentation, { units = 1, attention = false, direction = 'in' } = {}) {
      rows += 1;
      const row: RowPosition = [1, rows];
      const exit = exits.get(presentation);
      if (exit !== undefined) return { row, effects: send({ kind: 'exit_granted', exit, units, attention }) };
      return { row, effects: send({ kind: 'verdict', direction, presentation, row, verdict: { kind: 'grant', units, attention } }) };
    },
    refuse(presentation, direction = 'in') {
      rows += 1;
      return send({ kind: 'verdict', direction, presentation, row: [1, rows], verdict: { kind: 'refusal' } });
    },
    pass(direction = 'in', ms = 400) {
      const begun = [...world.line(`passage_${direction}`, true), ...wait(ms)];
      return [...begun, ...world.line(`passage_${direction}`, false), ...wait(whole.passageRestMs)];
    },
    state: () => state,
    nowMs: () => nowMs,
    driven: (output) => outputs.get(output) ?? false,
    pendingEntries: () => pendingEntries,
    timers: () => timers,
  };
  send({ kind: 'condition', condition: 'booted', ok: true });
  return world;
}
