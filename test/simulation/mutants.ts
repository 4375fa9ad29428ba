/** The faults that the simulation is there to find, each planted by a switch in its own adapters (or in the SQL of a database of its own), and the search for each. */
import { freshDatabase } from '../../testkit/database.ts';
import { type Fixture, HISTORIES_A_FLEET } from './fixture.ts';
import { runFleet } from './run.ts';
import { openRealAccount, plant, SQL_MUTANTS } from './sql.ts';
import type { MutantName, Violation } from './types.ts';

/** Within so many histories each must be found. */
export const MUTANT_HISTORIES = 300;

export const MUTANTS: Readonly<Record<MutantName, string>> = {
  'synchronous-normal': 'the ledger is written with synchronous=NORMAL while it says FULL',
  'release-before-commit': 'the release is driven when the decision is asked for, before its commit',
  'puback-as-recorded': "the broker's PUBACK is taken for the cloud's acknowledgement",
  'no-peer-rows': "the rows of the site's other gates are not taken in",
  'gap-ignored': "a gap among a peer's rows is passed over",
  'return-forgotten': 'a grant that nobody used is not given back',
  'unknown-released-again': 'what was open when the process died is released again at its start',
  'sequence-reused-after-restore': 'a store restored from an old image goes on in its old epoch',
  'overlay-goes-back': 'an older overlay replaces a newer one',
  'manifest-counts-twice': "a manifest's counts are added to rows that are counted in them",
  'stranger-signs': 'an overlay signed by an unknown key is taken',
  'disk-error-admits': 'a disk that fails admits',
  'fire-ignored': 'the fire input is not heard',
  'duplicates-by-ticket-and-time': 'the cloud knows duplicates by ticket and time instead of gate, epoch and seq',
  'ack-above-a-hole': 'an acknowledgement names the highest row, over a hole',
  'tenant-from-the-payload': 'the sender is taken from the payload instead of the topic',
  'arrival-order-ranks': 'the SQL ranks by the order of arrival',
  'excess-not-reported': 'the SQL does not report what is beyond a right',
  'returned-still-counts': 'the SQL counts a returned grant as passed',
  'fork-stored': 'a row behind a fork is stored',
  'ack-by-number': 'an acknowledgement is believed by number, without its hash',
  'again-without-identity': 'a row that was sent once more is counted as another one',
  'resend-only-kicks': 'what a restored database leaves out is not sent again',
  'set-instead-of-set-local': 'the tenant is set for the session of a pooled connection, not for the transaction',
};

export interface Caught {
  readonly mutant: MutantName;
  /** How many histories it took; null: not found within MUTANT_HISTORIES. */
  readonly after: number | null;
  readonly history: number | null;
  readonly violation: Violation | null;
}

const needsSql = (mutant: MutantName): boolean => mutant in SQL_MUTANTS || mutant === 'set-instead-of-set-local';

/** Runs histories with the fault planted until one of them fails. */
export async function hunt(fixture: Fixture, seed: number, mutant: MutantName, histories = MUTANT_HISTORIES): Promise<Caught> {
  const fresh = needsSql(mutant) ? await freshDatabase() : null;
  if (fresh !== null) await plant(fresh.database, mutant);
  const real = fresh === null ? null : openRealAccount(fresh.url, mutant);
  try {
    for (let fleet = 0, lived = 0; lived < histories; fleet++) {
      const below = Math.min((fleet + 1) * HISTORIES_A_FLEET, fleet * HISTORIES_A_FLEET + histories - lived);
      const { failure, histories: ran } = await runFleet(fixture, { seed, fleet, below, mutant, real });
      lived += ran;
      if (failure !== null) return { mutant, after: lived, history: failure.history, violation: failure.violations[0] ?? null };
    }
    return { mutant, after: null, history: null, violation: null };
  } finally {
    await real?.close();
    await fresh?.drop();
  }
}

export const inOneLine = ({ mutant, after, violation }: Caught): string =>
  `${mutant.padEnd(30)} ${after === null ? 'NOT FOUND' : `history ${String(after).padStart(3)}`}  ${(violation?.invariant ?? '').padEnd(4)} ${violation?.what.slice(0, 110) ?? MUTANTS[mutant]}`;
