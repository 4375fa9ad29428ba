/** Runs fleets one after another, and one history again with less in it. */

import { type Fixture, HISTORIES_A_FLEET } from './fixture.ts';
import { type Fleet, startFleet } from './fleet.ts';
import { fleetOf, planFleet, planHistory, type Step } from './plan.ts';
import { pretendFull, watchSynchronous } from './power.ts';
import { rememberSignatures } from './signatures.ts';
import type { RealAccount } from './sql.ts';
import type { MutantName, Violation } from './types.ts';

export interface Failure {
  readonly history: number;
  readonly violations: readonly Violation[];
}

export interface FleetResult {
  readonly fleet: number;
  readonly histories: number;
  readonly traceHash: string;
  readonly failure: Failure | null;
  readonly comparedInSql: boolean;
  readonly met: Readonly<Record<string, number>>;
  readonly counts: { readonly grants: number; readonly refusals: number; readonly releases: number; readonly lives: number };
}

const NOTHING = { grants: 0, refusals: 0, releases: 0, lives: 0 };

/** A fleet through its histories, up to `below` (exclusive). Ends with the first that fails. `real`: compares with PostgreSQL in the end. */
export async function runFleet(
  fixture: Fixture,
  options: { readonly seed: number; readonly fleet: number; readonly below: number; readonly mutant: MutantName | null; readonly real: RealAccount | null },
): Promise<FleetResult> {
  const { seed, fleet: number, mutant, real } = options;
  const plan = planFleet(seed, number);
  const first = number * HISTORIES_A_FLEET;
  const until = Math.min(first + HISTORIES_A_FLEET, options.below);
  return withFleet(fixture, { seed, plan, mutant, keepTrace: false }, async (fleet) => {
    let traceHash = '';
    let counts: FleetResult['counts'] = NOTHING;
    for (let history = first; history < until; history++) {
      const result = await fleet.live(planHistory(seed, history, plan), history === until - 1);
      ({ traceHash, counts } = result);
      if (result.violations.length > 0)
        return {
          fleet: number,
          histories: history - first + 1,
          traceHash,
          failure: { history, violations: result.violations },
          comparedInSql: false,
          met: {},
          counts,
        };
    }
    const violations = real === null ? [] : await real.compare(fleet.cloud, plan.policy);
    const failure = violations.length === 0 ? null : { history: until - 1, violations };
    return { fleet: number, histories: until - first, traceHash, failure, comparedInSql: real !== null, met: fleet.met(), counts };
  });
}

async function withFleet<T>(fixture: Fixture, options: Omit<Parameters<typeof startFleet>[0], 'fixture'>, work: (fleet: Fleet) => Promise<T>): Promise<T> {
  watchSynchronous(fixture.folder);
  rememberSignatures();
  pretendFull(options.mutant === 'synchronous-normal');
  const fleet = await startFleet({ fixture, ...options });
  try {
    return await work(fleet);
  } finally {
    await fleet.end();
    pretendFull(false);
  }
}

/** One history again. */
export interface Replay {
  readonly seed: number;
  readonly history: number;
  /** Without the histories that its fleet had lived through before. */
  readonly alone: boolean;
  /** null: as many as the plan says. */
  readonly gates: number | null;
  /** Which of its steps, by number; null: all. */
  readonly steps: readonly number[] | null;
}

export interface Replayed {
  readonly violations: readonly Violation[];
  readonly lines: readonly string[];
  readonly steps: readonly Step[];
}

export async function replay(
  fixture: Fixture,
  one: Replay,
  mutant: MutantName | null,
  options: { readonly keepTrace: boolean; readonly real: RealAccount | null },
): Promise<Replayed> {
  const planned = planFleet(one.seed, fleetOf(one.history));
  const plan = one.gates === null ? planned : { ...planned, gates: one.gates };
  const first = one.alone ? one.history : plan.fleet * HISTORIES_A_FLEET;
  return withFleet(fixture, { seed: one.seed, plan, mutant, keepTrace: options.keepTrace }, async (fleet) => {
    for (let history = first; ; history++) {
      const all = planHistory(one.seed, history, planned);
      const steps = history === one.history && one.steps !== null ? all.filter((_, index) => one.steps?.includes(index)) : all;
      const { violations, lines } = await fleet.live(
        steps.filter((step) => !('gate' in step) || step.gate < plan.gates),
        history === one.history,
      );
      if (history < one.history && violations.length === 0) continue;
      const more = violations.length === 0 && options.real !== null ? await options.real.compare(fleet.cloud, plan.policy) : [];
      return { violations: history < one.history ? [] : [...violations, ...more], lines, steps };
    }
  });
}

/** Runs of a history while it is made smaller. */
const MAX_SHRINK_RUNS = 150;

/** Fewer gates, fewer steps, no past: as long as the same invariant breaks. */
export async function shrink(fixture: Fixture, failed: Replay, mutant: MutantName | null, invariant: string, real: RealAccount | null): Promise<Replay> {
  let best = failed;
  let runs = 0;
  const fails = async (candidate: Replay): Promise<boolean> => {
    if (runs++ >= MAX_SHRINK_RUNS) return false;
    const { violations } = await replay(fixture, candidate, mutant, { keepTrace: false, real });
    if (!violations.some((violation) => violation.invariant === invariant)) return false;
    best = candidate;
    return true;
  };
  await fails({ ...best, alone: true });
  const planned = planFleet(failed.seed, fleetOf(failed.history));
  for (let gates = 1; gates < planned.gates; gates++) if (await fails({ ...best, gates })) break;
  let steps = best.steps ?? planHistory(failed.seed, failed.history, planned).map((_, index) => index);
  for (let size = Math.ceil(steps.length / 2); size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2)) {
    for (let at = 0; at < steps.length; ) {
      const fewer = [...steps.slice(0, at), ...steps.slice(at + size)];
      if (fewer.length < steps.length && (await fails({ ...best, steps: fewer }))) steps = fewer;
      else at += size;
    }
  }
  return best;
}

/** Returns the command that plays it again. */
export function commandOf(one: Replay, mutant: MutantName | null): string {
  return [
    `make sim SEED=${one.seed} HISTORY=${one.history}`,
    ...(one.alone ? ['ALONE=1'] : []),
    ...(one.gates === null ? [] : [`GATES=${one.gates}`]),
    ...(one.steps === null ? [] : [`STEPS=${one.steps.length === 0 ? 'none' : one.steps.join(',')}`]),
    ...(mutant === null ? [] : [`MUTANT=${mutant}`]),
  ].join(' ');
}
