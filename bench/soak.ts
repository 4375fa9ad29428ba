/** What both soaks need: the probe in the processes, what it says over time, latencies in windows, the load of the machine. */
import { mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { availableParallelism, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { ProbeLine } from '../test/faults/loop-probe.ts';
import type { Series } from './chart.ts';
import { quantile } from './table.ts';

/** Width of a window of latencies, seconds. */
export const WINDOW_S = 5;

export interface Probes {
  /** Processes that have said something. */
  pids(): readonly number[];
  lines(pid: number): readonly ProbeLine[];
}

/** Processes that are started from here on carry the probe (test/faults/loop-probe.ts). */
export function startProbes(): Probes {
  const folder = join(tmpdir(), `stile-probe-${process.pid}`);
  mkdirSync(folder, { recursive: true });
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  process.env['STILE_PROBE'] = folder;
  process.env['NODE_OPTIONS'] = `${process.env['NODE_OPTIONS'] ?? ''} --import ${fileURLToPath(new URL('../test/faults/loop-probe.ts', import.meta.url))}`;
  return {
    pids: () => readdirSync(folder).map(Number),
    lines: (pid) =>
      readFileSync(join(folder, String(pid)), 'utf8')
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line) as ProbeLine),
  };
}

/** One value of the probe over the seconds since `fromMs`. */
export const probed = (name: string, lines: readonly ProbeLine[], fromMs: number, value: 'late' | 'busy' | 'rss'): Series => ({
  name,
  points: lines.filter(({ at }) => at >= fromMs).map((line) => [(line.at - fromMs) / 1_000, line[value]] as const),
});

/** Latencies, [seconds, ms], as quantiles of each window. */
export function windows(waits: readonly (readonly [number, number])[]): { readonly p50: Series; readonly p99: Series } {
  const groups = [...Map.groupBy(waits, ([s]) => Math.floor(s / WINDOW_S))].sort(([a], [b]) => a - b);
  const of = (name: string, q: number): Series => ({
    name,
    points: groups.map(
      ([n, list]) =>
        [
          (n + 0.5) * WINDOW_S,
          quantile(
            list.map(([, ms]) => ms),
            q,
          ),
        ] as const,
    ),
  });
  return { p50: of('p50', 0.5), p99: of('p99', 0.99) };
}

/** Returns the rate in each window, per second. `atS`: the times of the events, in seconds. */
export function windowed(name: string, atS: readonly number[]): Series {
  const groups = Map.groupBy(atS, (s) => Math.floor(s / WINDOW_S));
  const end = Math.max(-1, ...groups.keys());
  return { name, points: Array.from({ length: end + 1 }, (_, n) => [(n + 0.5) * WINDOW_S, (groups.get(n)?.length ?? 0) / WINDOW_S] as const) };
}

/** The machine and how busy it is, for a caption. */
export const machine = (): string =>
  `${availableParallelism()} cores, load ${loadavg()[0]?.toFixed(1)}, Node ${process.version}, ${new Date().toISOString().slice(0, 16)}Z`;

/** Least-squares slope, MB an hour, of the second half: what it still grows by when it has settled. */
export function growthMbPerHour(lines: readonly ProbeLine[], fromMs: number): number {
  const all = lines.filter(({ at }) => at >= fromMs);
  const half = all.slice(Math.floor(all.length / 2));
  const n = half.length;
  const mean = (list: readonly number[]) => list.reduce((sum, one) => sum + one, 0) / Math.max(1, n);
  const [hours, rss] = [half.map(({ at }) => (at - fromMs) / 3_600_000), half.map((line) => line.rss)];
  const [meanX, meanY] = [mean(hours), mean(rss)];
  const spread = hours.reduce((sum, x) => sum + (x - meanX) ** 2, 0);
  return spread === 0 ? Number.NaN : hours.reduce((sum, x, at) => sum + (x - meanX) * ((rss[at] as number) - meanY), 0) / spread;
}
