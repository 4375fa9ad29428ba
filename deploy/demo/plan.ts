/**
 * Who comes to the demo, and what each must be told: pure, from a seed. The table at the end of a run compares this plan
 * with what Postgres holds.
 */
import { createHash } from 'node:crypto';
import type { Reason } from '../../contract/reasons.ts';

export const EVENT_ID = 'demo-night';
export const SITE_ID = 'arena';
export const GATES = ['arena/north-01', 'arena/south-01'] as const;
export type DemoGate = (typeof GATES)[number];
/** Both gates lead to the floor; tickets for the balcony are at the wrong entrance. */
export const ZONES = { served: 'floor', other: 'balcony' } as const;

export const GUEST_KINDS = ['good', 'used', 'unknown', 'cancelled', 'wrong_zone', 'garbled', 'second_gate'] as const;
export type GuestKind = (typeof GUEST_KINDS)[number];

/** What a guest of each kind must be told; null: admitted. */
export const EXPECTED: Readonly<Record<GuestKind, Reason | null>> = {
  good: null,
  used: 'already_redeemed',
  unknown: 'invalid',
  cancelled: 'canceled',
  wrong_zone: 'zone',
  garbled: 'unreadable',
  second_gate: 'already_redeemed',
};

export interface DemoTicket {
  readonly ticket_id: string;
  readonly code: string;
  readonly tier: 'standard' | 'premium';
  readonly zone: string;
  readonly status: 'sold' | 'cancelled';
}

export interface Guest {
  readonly number: number;
  readonly gate: DemoGate;
  readonly kind: GuestKind;
  /** What the QR says: written to the reader as it is, then CR LF. */
  readonly code: string;
  /** Comes only after that guest is through. */
  readonly after: number | null;
}

export interface DemoPlan {
  readonly tickets: readonly DemoTicket[];
  readonly guests: readonly Guest[] /** Valid codes that no guest of the plan shows: for a person to type. */;
  readonly spare: readonly DemoTicket[];
  readonly cancelled: DemoTicket;
  readonly wrongZone: DemoTicket;
}

/** One of twelve guests at a gate, in turn: half of them good, as on a bad evening. */
const TURN: readonly GuestKind[] = ['good', 'good', 'unknown', 'good', 'used', 'good', 'second_gate', 'good', 'cancelled', 'good', 'wrong_zone', 'garbled'];
const SPARE_TICKETS = 24;

/** A code of 128 bits, as a ticket shop would print it; the same for the same seed. */
function codeOf(seed: string, name: string): string {
  return createHash('sha256').update(`${seed}/${name}`).digest('base64url').slice(0, 22).toUpperCase().replaceAll('_', '8').replaceAll('-', '9');
}

/** `count` guests for two gates, taken in turn. */
export function planDemo(seed: string, count: number): DemoPlan {
  const tickets: DemoTicket[] = [];
  const sell = (zone: string = ZONES.served, status: DemoTicket['status'] = 'sold'): DemoTicket => {
    const number = String(tickets.length + 1).padStart(4, '0');
    const ticket = { ticket_id: `T-${number}`, code: codeOf(seed, number), tier: tickets.length % 5 === 4 ? 'premium' : 'standard', zone, status } as const;
    tickets.push(ticket);
    return ticket;
  };
  const guests: Guest[] = [];
  const good = new Map<DemoGate, Guest[]>(GATES.map((gate) => [gate, []]));
  const turns = new Map<DemoGate, number>();
  for (let number = 0; number < count; number++) {
    const gate = GATES[number % GATES.length] as DemoGate;
    const other = GATES[(number + 1) % GATES.length] as DemoGate;
    const turn = turns.get(gate) ?? 0;
    turns.set(gate, turn + 1);
    const wanted = TURN[turn % TURN.length] as GuestKind;
    // A code shown again at once is one presentation, not a second guest: `used` comes back a while later. At the other gate it is shown at once.
    const shown = wanted === 'used' ? good.get(gate)?.at(-3) : wanted === 'second_gate' ? good.get(other)?.at(-1) : undefined;
    const kind = shown === undefined && (wanted === 'used' || wanted === 'second_gate') ? 'good' : wanted;
    const guest: Guest = { number, gate, kind, code: codeFor(kind, seed, number, shown, sell), after: shown?.number ?? null };
    guests.push(guest);
    if (kind === 'good') good.get(gate)?.push(guest);
  }
  const cancelled = sell(ZONES.served, 'cancelled');
  const wrongZone = sell(ZONES.other);
  const spare = Array.from({ length: SPARE_TICKETS }, () => sell());
  return { tickets, guests, spare, cancelled, wrongZone };
}

function codeFor(
  kind: GuestKind,
  seed: string,
  number: number,
  shown: Guest | undefined,
  sell: (zone?: string, status?: DemoTicket['status']) => DemoTicket,
): string {
  switch (kind) {
    case 'good':
      return sell().code;
    case 'cancelled':
      return sell(ZONES.served, 'cancelled').code;
    case 'wrong_zone':
      return sell(ZONES.other).code;
    case 'unknown':
      return codeOf(seed, `unknown ${number}`);
    case 'used':
    case 'second_gate':
      return shown?.code ?? '';
    // Longer than any frame may be: the reader drops it, counts it and finds the next code.
    case 'garbled':
      return '~'.repeat(1500);
  }
}

/** Counts each verdict (`admitted`, or the reason) that Postgres must hold once all is quiet. */
export function expectedCounts(guests: readonly Guest[]): ReadonlyMap<string, number> {
  const counts = new Map<string, number>();
  for (const { kind } of guests) {
    const verdict = EXPECTED[kind] ?? 'admitted';
    counts.set(verdict, (counts.get(verdict) ?? 0) + 1);
  }
  return counts;
}
