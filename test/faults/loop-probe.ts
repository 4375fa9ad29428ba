/**
 * Preloaded into a gate or a cloud (NODE_OPTIONS=--import): how long its loop stood, and its memory, as seen from inside. Every
 * WRITE_MS one line of JSON (ProbeLine) goes to `<STILE_PROBE>/<pid>`. Workers and other commands are left alone.
 */
import { appendFileSync } from 'node:fs';
import { join } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { isMainThread } from 'node:worker_threads';

export interface ProbeLine {
  /** Unix ms. */
  readonly at: number;
  /** The longest that a timer was late in this window, ms: on a busy machine that may be another's doing. */
  readonly late: number;
  /** The most processor time that this thread spent between two turns of its loop, ms: its own doing alone. */
  readonly busy: number;
  /** Resident memory, MB. */
  readonly rss: number;
  /** After a full collection, asked for by SIGUSR2: what is held, on the heap and beside it, MB. */
  readonly held?: number;
}

const WRITE_MS = 250;
const TICK_MS = 10;
const SWEEP_MS = 100;

const folder = process.env['STILE_PROBE'];
if (folder !== undefined && isMainThread && /^(run|all)$/.test(process.argv[2] ?? '')) {
  const delay = monitorEventLoopDelay({ resolution: TICK_MS });
  delay.enable();
  const cpuMs = () => {
    const { user, system } = process.threadCpuUsage();
    return (user + system) / 1_000;
  };
  let before = cpuMs();
  let busy = 0;
  setInterval(() => {
    const now = cpuMs();
    busy = Math.max(busy, now - before);
    before = now;
  }, TICK_MS).unref();
  const megabytes = (bytes: number) => Math.round(bytes / 104_857.6) / 10;
  const report = async (): Promise<void> => {
    setFlagsFromString('--expose-gc');
    const gc = runInNewContext('gc') as () => void;
    const collect = () => {
      gc();
      // What it costs is nobody's.
      before = cpuMs();
    };
    // One collection leaves the buffers that died in it in the account until a thread beside it has swept them: tens of MB after a flood.
    collect();
    await sleep(SWEEP_MS);
    collect();
    const { heapUsed, external, rss } = process.memoryUsage();
    const line: ProbeLine = { at: Date.now(), late: 0, busy: 0, rss: megabytes(rss), held: megabytes(heapUsed + external) };
    appendFileSync(join(folder, String(process.pid)), `${JSON.stringify(line)}\n`);
    delay.reset();
    before = cpuMs();
  };
  process.on('SIGUSR2', () => void report());
  setInterval(() => {
    const line: ProbeLine = {
      at: Date.now(),
      late: delay.count === 0 ? 0 : Math.round(delay.max / 1e5) / 10 - TICK_MS,
      busy: Math.round(busy * 10) / 10,
      rss: megabytes(process.memoryUsage.rss()),
    };
    delay.reset();
    busy = 0;
    appendFileSync(join(folder, String(process.pid)), `${JSON.stringify(line)}\n`);
    // What the probe itself has cost is nobody's.
    before = cpuMs();
  }, WRITE_MS).unref();
}
