/**
 * What happens in a history: steps drawn from the seed before anything runs, so that a failing history can be run again with fewer of them.
 */
import type { Direction } from '../../contract/ids.ts';
import { type Random, randomOf } from '../../testkit/prng.ts';
import type { Network } from './broker.ts';
import { GATES, HISTORIES_A_FLEET, POLICIES, TICKETS_A_HISTORY } from './fixture.ts';
import type { Act } from './gate.ts';

export type Step = { readonly atMs: number } & (
  | { readonly do: 'show'; readonly gate: number; readonly direction: Direction; readonly ticket: number; readonly acts: readonly Act[] }
  | {
      readonly do: 'nonsense' | 'push' | 'press' | 'impostor' | 'forged-overlay' | 'stale-overlay' | 'new-card' | 'copy-card' | 'old-card';
      readonly gate: number;
    }
  | { readonly do: 'kill' | 'power-cut' | 'cut' | 'web-cut' | 'stall' | 'disk-fails' | 'fire'; readonly gate: number; readonly forMs: number }
  | { readonly do: 'clock'; readonly gate: number; readonly byMs: number }
  | { readonly do: 'broker-restart'; readonly keeps: boolean; readonly forMs: number }
  | { readonly do: 'cloud-down'; readonly forMs: number }
  | { readonly do: 'rights'; readonly ticket: number; readonly change: 'revoke' | 'block' | 'restore' | 'vip' | 'sell' }
  | { readonly do: 'manifest' | 'dump' }
  | { readonly do: 'restore'; readonly renewed: boolean; readonly forMs: number }
  | { readonly do: 'settle'; readonly pick: number; readonly outcome: 'passed' | 'returned' }
);

/** The making of a fleet; the same for all its histories. */
export interface FleetPlan {
  readonly fleet: number;
  readonly gates: number;
  readonly policy: number;
  readonly network: Network;
  readonly clocks: readonly { readonly driftPpm: number; readonly wallErrorMs: number; readonly synchronised: boolean }[];
}

/** Steps lie within so many ms; then all is healed, and quiet is waited for. */
export const STEPS_MS = 12_000;

export const fleetOf = (history: number): number => Math.floor(history / HISTORIES_A_FLEET);

export function planFleet(seed: number, fleet: number): FleetPlan {
  const random = randomOf(seed, 'fleet', fleet);
  return {
    fleet,
    gates: random.weighted([
      [4, 1],
      [5, 2],
      [1, 3],
    ]),
    policy: random.below(POLICIES.length),
    network: random.weighted<Network>([
      [5, { latencyMs: [1, 12], lost: 0, doubled: 0, late: 0 }],
      [3, { latencyMs: [2, 60], lost: 0.02, doubled: 0.05, late: 0.05 }],
      [2, { latencyMs: [5, 400], lost: 0.08, doubled: 0.1, late: 0.15 }],
    ]),
    clocks: GATES.map(() => ({
      driftPpm: random.between(-50, 50),
      wallErrorMs: random.weighted([
        [5, random.between(-40, 40)],
        [1, random.between(-3_600_000, 3_600_000)],
      ]),
      synchronised: random.chance(0.7),
    })),
  };
}

const ACTS: readonly (readonly [number, Act])[] = [
  [60, 'pass'],
  [5, 'late'],
  [14, 'none'],
  [3, 'after'],
  [1, 'stuck'],
];
const FOR_MS = { short: [200, 2_000], long: [1_000, 12_000] } as const;

/** The steps of one history, in order of time. */
export function planHistory(seed: number, history: number, fleet: FleetPlan): Step[] {
  const random = randomOf(seed, 'history', history);
  const first = (history % HISTORIES_A_FLEET) * TICKETS_A_HISTORY;
  const quiet = random.chance(0.15);
  const shows = 3 + random.below(1 + 2 * fleet.gates);
  const faults = quiet ? 0 : 1 + random.below(3);
  const steps: Step[] = [];
  for (let n = 0; n < shows; n++) steps.push(drawGuest(random, fleet, first));
  for (let n = 0; n < faults; n++) steps.push(...drawFault(random, fleet, first));
  return steps.sort((a, b) => a.atMs - b.atMs);
}

function drawGuest(random: Random, fleet: FleetPlan, first: number): Step {
  const atMs = random.below(STEPS_MS);
  const gate = random.below(fleet.gates);
  if (random.chance(0.03)) return { atMs, do: 'nonsense', gate };
  // Few tickets at many gates: that is where it becomes difficult.
  const ticket =
    first +
    random.weighted<number>([
      [4, 0],
      [2, 1],
      [3, 2],
      [2, 3],
      [3, 4],
      [1, 5],
    ]);
  const acts = Array.from({ length: 3 }, () => random.weighted(ACTS));
  return { atMs, do: 'show', gate, direction: random.chance(0.2) ? 'out' : 'in', ticket, acts };
}

type Draw = (random: Random, fleet: FleetPlan, first: number) => Omit<Step, 'atMs'> | Omit<Step, 'atMs'>[];
const gateFault =
  (what: 'kill' | 'power-cut' | 'cut' | 'web-cut' | 'stall' | 'fire', [min, max]: readonly [number, number]): Draw =>
  (random, fleet) =>
    ({ do: what, gate: random.below(fleet.gates), forMs: random.between(min, max) }) as Omit<Step, 'atMs'>;
const atGate =
  (what: 'push' | 'press' | 'impostor' | 'forged-overlay' | 'stale-overlay' | 'new-card'): Draw =>
  (random, fleet) =>
    ({ do: what, gate: random.below(fleet.gates) }) as Omit<Step, 'atMs'>;
/** Between the steps of one fault, ms: mostly a guest is through by then. */
const APART_MS = 1_300;
/** A gate that is cut off, and the same ticket at it and at another: what only a conflict report can mend. */
const apart: Draw = (random, fleet, first) => {
  const gate = random.below(fleet.gates);
  const ticket = first + random.pick([0, 1, 2, 4]);
  const show = (at: number) => ({ do: 'show', gate: at, direction: 'in', ticket, acts: ['pass', 'pass', 'pass'] }) as Omit<Step, 'atMs'>;
  return [{ do: 'cut', gate, forMs: random.between(4_000, 9_000) } as Omit<Step, 'atMs'>, show(gate), show((gate + 1) % fleet.gates), show(gate)];
};
/** A ticket at one gate, a new file of rights that counts what happened, and the ticket again: at that gate and at another. */
const recounted: Draw = (random, fleet, first) => {
  const gate = random.below(fleet.gates);
  const ticket = first + random.pick([2, 3, 4, 4]);
  const show = (at: number) => ({ do: 'show', gate: at, direction: 'in', ticket, acts: ['pass', 'pass', 'pass'] }) as Omit<Step, 'atMs'>;
  return [show(gate), { do: 'manifest' } as Omit<Step, 'atMs'>, show((gate + 1) % fleet.gates), show(gate)];
};
/** A copy of a card is put back: with fewer, as many or more rows since than the copy lacks, before or after the cloud has heard of either. */
const cardBack: Draw = (random, fleet, first) => {
  const gate = random.below(fleet.gates);
  const guests = (most: number): Omit<Step, 'atMs'>[] =>
    Array.from({ length: random.below(most + 1) }, () => show(random, random.chance(0.8) ? gate : random.below(fleet.gates), first));
  const isCut = random.chance(0.5);
  return [
    { do: 'copy-card', gate } as Omit<Step, 'atMs'>,
    ...guests(3),
    ...(isCut ? [{ do: 'cut', gate, forMs: random.between(2_000, 7_000) } as Omit<Step, 'atMs'>] : []),
    { do: 'old-card', gate } as Omit<Step, 'atMs'>,
    ...guests(4),
  ];
};
/** A copy of the cloud's database is put back, by its own command or as it lay. */
const databaseBack: Draw = (random, fleet, first) => {
  const guests = (most: number): Omit<Step, 'atMs'>[] => Array.from({ length: 1 + random.below(most) }, () => show(random, random.below(fleet.gates), first));
  return [
    { do: 'dump' } as Omit<Step, 'atMs'>,
    ...guests(3),
    { do: 'restore', renewed: random.chance(0.5), forMs: random.between(300, 3_000) } as Omit<Step, 'atMs'>,
    ...guests(2),
  ];
};
const show = (random: Random, gate: number, first: number): Omit<Step, 'atMs'> =>
  ({ do: 'show', gate, direction: 'in', ticket: first + random.below(TICKETS_A_HISTORY), acts: ['pass', 'pass', 'pass'] }) as Omit<Step, 'atMs'>;
/** A disk that fails, and a guest who comes just then. */
const failing: Draw = (random, fleet, first) => {
  const gate = random.below(fleet.gates);
  const guest = { do: 'show', gate, direction: 'in', ticket: first + random.below(TICKETS_A_HISTORY), acts: ['pass', 'pass', 'pass'] } as Omit<Step, 'atMs'>;
  return [{ do: 'disk-fails', gate, forMs: random.between(...FOR_MS.long) } as Omit<Step, 'atMs'>, guest];
};
const DRAWS: readonly (readonly [number, Draw])[] = [
  [6, gateFault('kill', FOR_MS.short)],
  [8, gateFault('power-cut', FOR_MS.short)],
  [10, gateFault('cut', FOR_MS.long)],
  [3, gateFault('web-cut', FOR_MS.long)],
  [3, gateFault('stall', [500, 5_000])],
  [3, failing],
  [2, gateFault('fire', [800, 4_000])],
  [4, atGate('push')],
  [3, atGate('press')],
  [4, atGate('impostor')],
  [2, atGate('forged-overlay')],
  [6, atGate('stale-overlay')],
  [1, atGate('new-card')],
  [8, cardBack],
  [5, databaseBack],
  [4, (random) => ({ do: 'broker-restart', keeps: random.chance(0.5), forMs: random.between(200, 3_000) }) as Omit<Step, 'atMs'>],
  [4, (random) => ({ do: 'cloud-down', forMs: random.between(500, 9_000) }) as Omit<Step, 'atMs'>],
  [3, (random, fleet) => ({ do: 'clock', gate: random.below(fleet.gates), byMs: random.between(-120_000, 120_000) }) as Omit<Step, 'atMs'>],
  [
    9,
    (random, _, first) =>
      ({ do: 'rights', ticket: first + random.below(TICKETS_A_HISTORY), change: random.pick(['revoke', 'block', 'restore', 'vip', 'sell', 'sell']) }) as Omit<
        Step,
        'atMs'
      >,
  ],
  [10, apart],
  [7, recounted],
  [7, () => ({ do: 'manifest' }) as Omit<Step, 'atMs'>],
  [4, (random) => ({ do: 'settle', pick: random.below(8), outcome: random.pick(['passed', 'returned']) }) as Omit<Step, 'atMs'>],
];

function drawFault(random: Random, fleet: FleetPlan, first: number): Step[] {
  const drawn = random.weighted(DRAWS)(random, fleet, first);
  const atMs = random.below(STEPS_MS);
  return [drawn].flat().map((one, index) => ({ ...one, atMs: atMs + index * APART_MS }) as Step);
}

/** A step in a few words. */
export function inWords(step: Step): string {
  return `${(step.atMs / 1000).toFixed(2)} s: ${JSON.stringify(step, (key, value) => (key === 'atMs' ? undefined : value))}`;
}
