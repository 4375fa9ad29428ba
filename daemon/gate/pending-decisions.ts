/**
 * Carries codes from a reader's frame to the decider and back. The bytes of a code are held here alone, and only until
 * its decision; the lane knows a code by a number and by a fingerprint that means nothing outside this process.
 */
import { createHmac, randomBytes } from 'node:crypto';
import type { Direction } from '../../contract/ids.ts';
import type { Mode } from '../../contract/ledger.ts';
import type { Reason } from '../../contract/reasons.ts';
import type { Grant } from '../../rules/facts.ts';
import type { Clock, Decider, Decision, Presentation, ReaderEvent, Uplink } from '../ports.ts';
import type { Report, UntimedInput } from './outcome.ts';

/** Bounds the decisions in flight, abandoned ones included; a further code is refused with `error` at once. */
export const MAX_DECISIONS_IN_FLIGHT = 8;

export interface Decisions {
  /** Returns the lane input for a frame of a reader. */
  present(event: Extract<ReaderEvent, { kind: 'frame' }>): UntimedInput;
  /** Warms the decider up when no decision is in flight. */
  codeArriving(): void;
  /** Requests a decision of the decider. `exit`: the lane is open outwards already, under this number. */
  decide(presentation: number, direction: Direction, mode: Mode, exit?: number): void;
  abandon(presentation: number): void;
  drop(presentation: number): void;
}

export interface DecisionsOptions {
  readonly decider: Pick<Decider, 'decide' | 'abandon' | 'prepare'>;
  readonly clock: Clock;
  readonly uplink: Pick<Uplink, 'online'>;
  readonly storeIsOpen: () => boolean;
  readonly report: Report;
}

/** Flags that are the gate's own state, not the guest's: no second beep for everybody. */
const GATE_FLAGS: ReadonlySet<string> = new Set(['clock_untrusted', 'manifest_stale', 'usage_lost']);

/** Reasons of a ticket that is valid at another entrance or at a later time: the lamps tell it from a used or unknown one. */
const ELSEWHERE: ReadonlySet<Reason> = new Set(['zone', 'product', 'invalid_time']);

/** Returns whether the staff shall look up: VIP, or admitted with a flag. */
export function wantsAttention(grant: Grant): boolean {
  return grant.vip || grant.flags.some((flag) => !GATE_FLAGS.has(flag));
}

interface Waiting {
  readonly frame: Extract<ReaderEvent, { kind: 'frame' }>;
  presentation: Presentation | null;
}

export function createDecisions(options: DecisionsOptions): Decisions {
  const { decider, clock, uplink, storeIsOpen, report } = options;
  const secret = randomBytes(32);
  const waiting = new Map<number, Waiting>();
  let next = 1;
  let inFlight = 0;

  function informLane(presentation: number, { direction }: Presentation, { verdict, row }: Decision): void {
    const answer =
      verdict.kind === 'grant'
        ? ({ kind: 'grant', units: verdict.units, attention: wantsAttention(verdict) } as const)
        : ({ kind: 'refusal', elsewhere: ELSEWHERE.has(verdict.reason) } as const);
    report({ kind: 'lane_input', input: { kind: 'verdict', direction, presentation, row, verdict: answer } });
  }

  /** Settles the decision on a guest who is going out already: it only becomes the row of his exit. */
  function settleExit(exit: number, { verdict, row }: Decision): void {
    report({ kind: 'exit_committed', exit, row, unmatched: verdict.kind === 'refusal' });
    if (verdict.kind === 'grant')
      report({ kind: 'lane_input', input: { kind: 'exit_granted', exit, units: verdict.units, attention: wantsAttention(verdict) } });
  }

  function notDecided(number: number, direction: Direction, exit: number | null): void {
    if (exit === null) report({ kind: 'lane_input', input: { kind: 'decision_failed', direction, presentation: number } });
    else report({ kind: 'exit_undecided', exit });
  }

  async function requestDecision(number: number, presentation: Presentation, exit: number | null): Promise<void> {
    inFlight += 1;
    try {
      const decision = await decider.decide(presentation);
      report({ kind: 'store_healthy' });
      if (!waiting.delete(number)) return;
      if (exit === null) informLane(number, presentation, decision);
      else settleExit(exit, decision);
      report({ kind: 'decision', decision, presentation, latencyUs: (clock.boottimeMs() - presentation.lastByteMs) * 1_000 });
    } catch (error) {
      report({ kind: 'store_failed', error });
      if (waiting.delete(number)) notDecided(number, presentation.direction, exit);
    } finally {
      inFlight -= 1;
    }
  }

  return {
    present(frame) {
      const presentation = next;
      next += 1;
      waiting.set(presentation, { frame, presentation: null });
      const fingerprint = createHmac('sha256', secret).update(frame.bytes).digest('base64');
      return { kind: 'code', direction: frame.direction, presentation, fingerprint, lastByteMs: frame.lastByteMs, reader: frame.reader };
    },
    codeArriving() {
      if (storeIsOpen() && inFlight === 0) decider.prepare?.();
    },
    decide(number, direction, mode, exit) {
      const one = waiting.get(number);
      if (one === undefined) {
        if (exit !== undefined) report({ kind: 'exit_undecided', exit });
        return;
      }
      const { bytes, reader, atMs, lastByteMs } = one.frame;
      one.presentation = { bytes, direction, reader, mode, atMs, lastByteMs, online: uplink.online(), ...(exit === undefined ? {} : { opened: true }) };
      if (storeIsOpen() && inFlight < MAX_DECISIONS_IN_FLIGHT) {
        void requestDecision(number, one.presentation, exit ?? null);
        return;
      }
      waiting.delete(number);
      notDecided(number, direction, exit ?? null);
    },
    abandon(number) {
      const one = waiting.get(number);
      waiting.delete(number);
      if (one?.presentation != null) decider.abandon(one.presentation);
    },
    drop(number) {
      waiting.delete(number);
    },
  };
}
