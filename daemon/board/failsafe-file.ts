/**
 * What the unit's stop step does when the process cannot: a small text file in /run, written at start and whenever the fire
 * latch changes, that says to which level each output returns. deploy/stop-step/stile-release reads it.
 *
 * One target a line, the value last (0 or 1, the level on the wire); `#` begins a comment:
 *
 *   sysfs <global gpio number> <value>
 *   chip <path of the character device> <line> <value>
 *   sim <path of a file that stands for the wire> <value>
 */
import { mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Board } from '../ports.ts';
import type { Level } from './pin-map.ts';

export type ReleaseTarget =
  | { readonly kind: 'sysfs'; readonly number: number; readonly level: Level }
  | { readonly kind: 'chip'; readonly path: string; readonly line: number; readonly level: Level }
  | { readonly kind: 'sim'; readonly path: string; readonly level: Level };

/** A board that can say how to return its outputs without it. */
export interface LaneBoard extends Board {
  /** After `open`. `releaseOpen`: while fire is asserted or latched. */
  releaseTargets(releaseOpen: boolean): readonly ReleaseTarget[];
  /** Names the driver of the lines, for people: such as `onoff (sysfs, pinctrl-bcm2711 at 512)`. */
  describe(): string;
}

export function formatReleaseFile(targets: readonly ReleaseTarget[]): string {
  const lines = targets.map((target) => {
    const value = target.level === 'high' ? 1 : 0;
    if (target.kind === 'sysfs') return `sysfs ${target.number} ${value}`;
    if (/[\n\0]/.test(target.path)) throw new Error('release file: a path with a line break cannot be written; rename it');
    return target.kind === 'chip' ? `chip ${target.path} ${target.line} ${value}` : `sim ${target.path} ${value}`;
  });
  return `# Written by stile-gate. Read by stile-release when the gate's process has ended.\n${lines.map((line) => `${line}\n`).join('')}`;
}

/** Writes the file beside and renames it, so that the stop step never reads half of it. /run is memory: nothing to sync. Throws what the file system says. */
export function writeReleaseFile(path: string, targets: readonly ReleaseTarget[]): void {
  mkdirSync(dirname(path), { recursive: true });
  const beside = `${path}.new`;
  writeFileSync(beside, formatReleaseFile(targets), { mode: 0o644 });
  renameSync(beside, path);
}
