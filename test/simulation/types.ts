/** What the parts of one simulated world share: time, chance, the trace, what was found wrong, and which fault is planted. */
import { createHash, type Hash } from 'node:crypto';
import type { Random } from '../../testkit/prng.ts';
import type { Broker } from './broker.ts';
import type { Cloud } from './cloud-api.ts';
import type { Fixture } from './fixture.ts';
import type { Scheduler } from './scheduler.ts';

export const INVARIANTS = ['I1', 'I2', 'I3', 'I4', 'I5', 'I6', 'I7', 'I8', 'I9', 'I10'] as const;
export type Invariant = (typeof INVARIANTS)[number];

export interface Violation {
  readonly invariant: Invariant;
  readonly what: string;
  readonly atMs: number;
}

/** Planted faults: each is a switch in the simulation's own adapters, never in the product. The table with words is in mutants.ts. */
export type MutantName =
  | 'synchronous-normal'
  | 'release-before-commit'
  | 'puback-as-recorded'
  | 'no-peer-rows'
  | 'gap-ignored'
  | 'return-forgotten'
  | 'unknown-released-again'
  | 'sequence-reused-after-restore'
  | 'overlay-goes-back'
  | 'manifest-counts-twice'
  | 'stranger-signs'
  | 'disk-error-admits'
  | 'fire-ignored'
  | 'duplicates-by-ticket-and-time'
  | 'ack-above-a-hole'
  | 'tenant-from-the-payload'
  | 'arrival-order-ranks'
  | 'excess-not-reported'
  | 'returned-still-counts'
  | 'set-instead-of-set-local'
  | 'fork-stored'
  | 'ack-by-number'
  | 'again-without-identity'
  | 'resend-only-kicks';

export interface World {
  readonly fixture: Fixture;
  readonly scheduler: Scheduler;
  readonly random: Random;
  readonly policy: number;
  readonly mutant: MutantName | null;
  readonly broker: Broker;
  readonly cloud: Cloud;
  readonly trace: Trace;
  violated(invariant: Invariant, what: string): void;
  readonly violations: readonly Violation[];
  /** How often an older copy was put into each gate, or a new card. */
  readonly backs: Map<string, number>;
}

/** Everything that happens, as one hash: two runs of a seed must agree on it. `lines` keeps the words where somebody wants to read them. */
export interface Trace {
  add(atMs: number, what: string): void;
  digest(): string;
  readonly lines: readonly string[] | null;
}

export function createTrace(keep: boolean): Trace {
  const hash: Hash = createHash('sha256');
  const lines: string[] | null = keep ? [] : null;
  let waiting = '';
  return {
    add(atMs, what) {
      const line = `${atMs.toFixed(3)} ${what}\n`;
      waiting += line;
      lines?.push(line);
    },
    digest() {
      hash.update(waiting);
      waiting = '';
      return hash.copy().digest('hex');
    },
    lines,
  };
}
