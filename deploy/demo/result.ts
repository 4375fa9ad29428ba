/** The end of a run: what the plan says must stand in Postgres, beside what does. Pure. */

import type { Played } from './guests.ts';
import { type DemoPlan, expectedCounts } from './plan.ts';
import { countTable, rowsLine } from './screen.ts';

/** The findings once all was quiet. */
export interface Found {
  /** Rows of the gates' own ledgers, and of Postgres. */
  readonly rows: { readonly gates: number; readonly postgres: number };
  /** `admitted`, or a refusal's reason → how often, in Postgres. */
  readonly verdicts: ReadonlyMap<string, number>;
  readonly facts: { readonly passed: number; readonly ticketsUsed: number; readonly conflicts: number };
}

/** The table in words, and whether every figure and every guest's answer is as planned. */
export function judge(plan: DemoPlan, played: readonly Played[], { rows, verdicts, facts }: Found): { readonly right: boolean; readonly text: string } {
  const wanted = expectedCounts(plan.guests);
  const admitted = wanted.get('admitted') ?? 0;
  const table = [
    ...[...new Set([...wanted.keys(), ...verdicts.keys()])]
      .sort()
      .map((what) => ({ what: what === 'admitted' ? 'admitted' : `refused: ${what}`, expected: wanted.get(what) ?? 0, found: verdicts.get(what) ?? 0 })),
    { what: 'guests through the turnstile', expected: admitted, found: facts.passed },
    { what: 'tickets used', expected: admitted, found: facts.ticketsUsed },
    { what: 'conflicts', expected: 0, found: facts.conflicts },
    { what: 'ledger rows (gates, Postgres)', expected: rows.gates, found: rows.postgres },
  ];
  const wrong = played.filter(({ asExpected }) => !asExpected);
  const missing = plan.guests.length - played.length;
  const right = wrong.length === 0 && missing === 0 && table.every(({ expected, found }) => expected === found);
  const text = [
    '',
    countTable(table),
    ...wrong.map(({ guest, line }) => `  guest ${guest.number} (${guest.kind}) at ${guest.gate} was told: ${line?.words ?? 'nothing'}`),
    ...(missing === 0 ? [] : [`  ${missing} of ${plan.guests.length} guests did not come to their turn`]),
    '',
    rowsLine({ gates: [{ rows: rows.gates } as never], postgresRows: rows.postgres }),
    right ? 'all as expected' : 'NOT as expected',
    '',
  ].join('\n');
  return { right, text };
}
