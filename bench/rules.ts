/**
 * The decision alone, without store or disk: nanoseconds by how many rules a policy has and how often a ticket was used.
 *
 *   node bench/rules.ts [--rounds 20000]
 */
import { parseArgs } from 'node:util';
import { admit } from '../rules/admission.ts';
import type { Recognised } from '../rules/facts.ts';
import { effectivePolicy, type GatePolicy } from '../rules/policy.ts';
import { EVENT, entry, exit, GATE, HOUR_MS, NOW_MS, PLACE, TICKET } from '../rules/testing/facts.ts';
import type { RuleNode } from '../rules/venue-rule.ts';
import { quantile, table } from './table.ts';

const { values } = parseArgs({ options: { rounds: { type: 'string', default: '20000' } } });
const ROUNDS = Number(values.rounds);
/** Decisions between two readings of the clock: one alone is too short to be timed. */
const BATCH = 50;
const WARM_UP = 5_000;

const CASES: readonly (readonly [string, GatePolicy, number])[] = [
  ['defaults, never used', {}, 0],
  ['zones, tiers and grace', { zones: ['floor'], tiers: ['standard'] }, 0],
  ['re-entry after exit, used 2 times', { reentry: { rule: 'after_exit' } }, 2],
  ['re-entry, daily limit, passback, used 10 times', { reentry: { rule: 'after_exit' }, entries: { per_day: 20 } }, 10],
  ['the same, used 100 times', { reentry: { rule: 'after_exit' }, entries: { per_day: 200 } }, 100],
  ...[1, 2, 5, 10, 20, 50].map((count) => [`venue's rules: ${count}`, { rules: venueRules(count) }, 0] as const),
];

/** Returns a rule of `count` comparisons that all hold, so that each is evaluated. */
function venueRules(count: number): RuleNode {
  return { and: Array.from({ length: count }, (_, index) => ({ '<': [{ var: 'entries_number' }, index + 3] })) };
}

function factsOf(used: number): Recognised {
  const entries = Array.from({ length: used }, (_, index) => [
    entry({ atMs: NOW_MS - (used - index) * HOUR_MS }),
    exit({ atMs: NOW_MS - (used - index) * HOUR_MS + HOUR_MS / 2 }),
  ]).flat();
  return { kind: 'ticket', ticket: { ...TICKET, zone: 'floor' }, medium: 'opaque', entries, event: EVENT };
}

const rows = CASES.map(([name, override, used]) => {
  const policy = effectivePolicy({ gates: { [GATE]: override } }, TICKET.tier, GATE);
  const facts = factsOf(used);
  const verdict = admit(facts, policy, PLACE);
  // Until the compiler has seen it often enough.
  for (let index = 0; index < WARM_UP; index++) admit(facts, policy, PLACE);
  const times: number[] = [];
  for (let round = 0; round < ROUNDS / BATCH; round++) {
    const began = process.hrtime.bigint();
    for (let index = 0; index < BATCH; index++) admit(facts, policy, PLACE);
    times.push(Number(process.hrtime.bigint() - began) / BATCH);
  }
  return { name, verdict: verdict.kind === 'grant' ? verdict.type : verdict.reason, p50: quantile(times, 0.5), p99: quantile(times, 0.99) };
});
const base = rows[0]?.p50 ?? 1;
const ofRules = (count: number) => rows.find(({ name }) => name.endsWith(`: ${count}`))?.p50 ?? Number.NaN;
process.stdout.write(
  `${table(
    ['policy', 'verdict', 'p50 ns', 'p99 ns', '× defaults'],
    rows.map(({ name, verdict, p50, p99 }) => [name, verdict, p50.toFixed(0), p99.toFixed(0), (p50 / base).toFixed(2)]),
  )}\n`,
);
process.stdout.write(`each further rule of the venue: ${((ofRules(50) - ofRules(1)) / 49).toFixed(0)} ns\n`);
