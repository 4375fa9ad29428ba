/** Drives the lane's outputs: releases at once, lamps and buzzer by their patterns. Retries a failed write. */
import type { Direction } from '../../contract/ids.ts';
import type { LampSet } from '../lane/config.ts';
import { type ActiveSignal, type Lamps, renderLamps } from '../lane/signals.ts';
import type { Signal } from '../lane/types.ts';
import type { Board, Clock, OutputName } from '../ports.ts';
import type { Timers } from '../timers.ts';
import type { Report } from './outcome.ts';

export interface Outputs {
  /** Drives one output now. */
  write(output: OutputName, active: boolean): void;
  /** Shows a pattern from its beginning. */
  show(direction: Direction, signal: Signal): void;
  /** Writes again what failed. */
  retryFailed(): void;
  lamps(): Readonly<Record<Direction, Lamps>>;
  level(output: OutputName): boolean;
  close(): void;
}

export interface OutputsOptions {
  readonly board: Board;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly lamps: LampSet;
  readonly report: Report;
}

export function createOutputs(options: OutputsOptions): Outputs {
  const { board, clock, timers, report } = options;
  const wanted = new Map<OutputName, boolean>();
  const unwritten = new Set<OutputName>();
  const active: Record<Direction, ActiveSignal> = {
    in: { signal: 'booting', sinceMs: clock.boottimeMs() },
    out: { signal: 'booting', sinceMs: clock.boottimeMs() },
  };
  let rendered = renderLamps(active, options.lamps, clock.boottimeMs());
  let next: { cancel(): void } | null = null;
  let closed = false;

  function write(output: OutputName, active: boolean): void {
    wanted.set(output, active);
    try {
      board.write(output, active);
      unwritten.delete(output);
    } catch (error) {
      unwritten.add(output);
      report({ kind: 'output_failed', output, error });
    }
    report({ kind: 'view_changed' });
  }

  function render(): void {
    next?.cancel();
    next = null;
    if (closed) return;
    const nowMs = clock.boottimeMs();
    rendered = renderLamps(active, options.lamps, nowMs);
    for (const [output, active] of rendered.outputs) {
      if ((wanted.get(output) ?? false) !== active) write(output, active);
    }
    if (rendered.nextMs !== null) next = timers.after(rendered.nextMs - nowMs, render);
  }

  return {
    write,
    show(direction, signal) {
      active[direction] = { signal, sinceMs: clock.boottimeMs() };
      render();
    },
    retryFailed() {
      for (const output of [...unwritten]) write(output, wanted.get(output) ?? false);
    },
    lamps: () => rendered.lamps,
    level: (output) => wanted.get(output) ?? false,
    close() {
      closed = true;
      next?.cancel();
    },
  };
}
