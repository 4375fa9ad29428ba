/** The shared vectors of decisions: the gate's rules give, for the same facts, the verdict that is written down; so must the cloud's. */
import { readdirSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { explain } from '../contract/reasons.ts';
import { admit } from './admission.ts';
import type { PlaceFacts, Recognised, Verdict } from './facts.ts';
import { effectivePolicy, readPolicies } from './policy.ts';

interface Vector {
  readonly about: string;
  readonly facts: Recognised;
  /** EventPolicies, as they stand in a manifest. */
  readonly policy: unknown;
  readonly place: PlaceFacts;
  readonly expected: Verdict;
}

const folder = new URL('../contract/examples/decisions/', import.meta.url);
const names = readdirSync(folder).filter((name) => name.endsWith('.json'));

test('there are vectors', () => {
  expect(names.length).toBeGreaterThan(40);
});

for (const name of names) {
  const { about, facts, policy, place, expected } = JSON.parse(readFileSync(new URL(name, folder), 'utf8')) as Vector;
  test(`${name}: ${about}`, () => {
    const read = readPolicies(policy);
    if (!read.ok) throw new Error(read.problems.join('\n'));
    const verdict = admit(facts, effectivePolicy(read.policies, facts.kind === 'ticket' ? facts.ticket.tier : null, place.gate), place);
    expect(verdict).toEqual(expected);
    if (verdict.kind === 'refusal') expect(explain(verdict.reason, verdict.facts)).toBe(verdict.explanation);
  });
}
