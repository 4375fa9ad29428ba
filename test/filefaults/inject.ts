/**
 * Runs scenarios once for every operation on their files, and lets that operation fail: in a process that has nth-fault.c preloaded.
 *
 *   node inject.ts <task as JSON>
 */
import { mkdirSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Scenario, Trial } from './scenario.ts';
import { SCENARIOS } from './scenarios.ts';
import { ERRORS, type NthFault, nthFault } from './shim.ts';

export interface InjectTask {
  readonly folder: string;
  readonly scenarios: readonly string[];
  /** Every so many operations, from a place that differs between the manners. */
  readonly every: number;
}

export interface Injected {
  readonly scenario: string;
  /** Operations of the scenario when nothing fails; trials; operations that failed in them. */
  readonly operations: number;
  trials: number;
  failed: number;
  readonly problems: string[];
  /** What failed without a word, though nothing says that it may. */
  readonly silent: string[];
}

const MANNERS = (Object.keys(ERRORS) as (keyof typeof ERRORS)[]).flatMap((error) => [false, true].map((lasting) => ({ error, lasting })));
const MAX_NAMED = 12;

/** Returns what was written, renamed or removed and never synced: a promise that a power cut breaks, and no failing operation shows. */
function unsynced(trace: readonly string[], scenario: Scenario): string[] {
  const dirty = new Map<string, string>();
  for (const line of trace) {
    const at = line.indexOf(' ');
    const [named = '', from] = line.slice(at + 1).split('\t');
    const path = named === '' ? '/' : named;
    const what = line.slice(0, at);
    if (what === 'write' || what === 'truncate') dirty.set(path, what);
    else if (what === 'fsync' || what === 'fdatasync') dirty.delete(path);
    else if (what === 'unlink') {
      dirty.delete(path);
      dirty.set(dirname(path), `${what} ${path}`);
    } else if (what === 'rename') {
      if (from !== undefined && dirty.has(from)) dirty.set(path, 'write before its rename');
      if (from !== undefined) dirty.delete(from);
      dirty.set(dirname(path), `${what} ${path}`);
    }
  }
  return [...dirty]
    .filter(([path, what]) => !(scenario.unsynced ?? []).some(([pattern]) => pattern.test(`${path}: ${what}`)))
    .map(([path, what]) => `${path} is not synced after: ${what}`);
}

/** Returns where each file is synced for the last time: what comes seldom is missed by every n-th. */
function lastSyncs(trace: readonly string[]): number[] {
  const last = new Map<string, number>();
  for (const [index, line] of trace.entries()) if (/^f(data)?sync /.test(line)) last.set(line.replace(/[0-9a-f]{6,}/g, '#'), index + 1);
  return [...last.values()];
}

async function trial(fault: NthFault, scenario: Scenario, folder: string, nth: number, manner: (typeof MANNERS)[number]) {
  const words: string[] = [];
  const phases: [number, string][] = [];
  const one: Trial = {
    folder: join(folder, 'files'),
    beside: join(folder, 'beside'),
    told: (what) => void words.push(what),
    phase: (name) => void phases.push([fault.count(), name]),
  };
  rmSync(folder, { recursive: true, force: true });
  for (const path of [one.folder, one.beside]) mkdirSync(path, { recursive: true });
  await scenario.prepare?.(one);
  fault.arm(one.folder, nth, manner.error, manner.lasting);
  let promised: unknown;
  let crash: string | null = null;
  try {
    promised = await scenario.act(one);
  } catch (error) {
    crash = `act itself fails: ${(error as Error).stack}`;
  }
  const happened = fault.disarm();
  const phase = phases.findLast(([from]) => from < nth)?.[1] ?? 'begin';
  const problems = crash === null ? await scenario.check(one, promised).catch((error: Error) => [`the check fails: ${error.stack}`]) : [crash];
  return { ...happened, problems, words, phase };
}

export async function inject(task: InjectTask): Promise<Injected[]> {
  const fault = nthFault();
  const results: Injected[] = [];
  for (const scenario of SCENARIOS.filter(({ name }) => task.scenarios.length === 0 || task.scenarios.includes(name))) {
    const folder = join(task.folder, 'trial');
    const plain = await trial(fault, scenario, folder, 0, { error: 'EIO', lasting: false });
    const result: Injected = {
      scenario: scenario.name,
      operations: plain.operations,
      trials: 0,
      failed: 0,
      problems: [...plain.problems, ...unsynced(fault.trace(), scenario)].map((one) => `without a fault: ${one}`),
      silent: [],
    };
    results.push(result);
    const rare = task.every > 1 ? lastSyncs(fault.trace()) : [];
    for (const [shift, manner] of MANNERS.entries()) {
      const chosen = new Set(shift === 0 ? rare : []);
      for (let nth = 1 + ((shift * Math.ceil(task.every / MANNERS.length)) % task.every); nth <= plain.operations; nth += task.every) chosen.add(nth);
      for (const nth of chosen) {
        const found = await trial(fault, scenario, folder, nth, manner);
        result.trials += 1;
        result.failed += found.failed;
        const where = `${manner.lasting ? 'from' : 'at'} ${nth} (${found.phase}: ${found.what}) ${manner.error}`;
        if (result.problems.length < MAX_NAMED) result.problems.push(...found.problems.map((one) => `${where}: ${one}`));
        if (
          found.failed > 0 &&
          found.words.length === 0 &&
          !(scenario.silent ?? []).some(([pattern]) => pattern.test(`${found.phase}: ${found.what} ${manner.error}`)) &&
          result.silent.length < MAX_NAMED
        )
          result.silent.push(where);
      }
    }
  }
  return results;
}

if (import.meta.main) {
  const results = await inject(JSON.parse(process.argv[2] ?? '{}') as InjectTask);
  process.send?.(results, () => process.disconnect?.());
}
