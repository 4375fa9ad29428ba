/**
 * Codes on their way: from a reader's frame to the decider and back. The bytes of a code live here alone, and only until
 * its decision; the lane knows a code by a number and by a fingerprint that means nothing outside this process.
 */
import { createHmac, randomBytes } from 'node:crypto';
import type { Direction } from '../../contract/ids.ts';
import type { Mode } from '../../contract/ledger.ts';
import type { Grant } from '../../rules/facts.ts';
import type { Clock, Decider, Decision, Presentation, ReaderEvent } from '../ports.ts';
import type { UntimedInput } from './commands.ts';
import type { PendingEntries } from './pending-entries.ts';

/** Decisions that the decider owes, given-up ones included; a further code is refused with `error` at once. */
export const MAX_DECISIONS_UNDER_WAY = 8;

export interface Decisions {
  /** A frame of a reader becomes a lane input. */
  present(event: Extract<ReaderEvent, { kind: 'frame' }>): UntimedInput;
  /** A code is on the wire: the decider gets ready, where it would be asked. */
  coming(): void;
  /** The lane says: ask the decider. `exit`: it is open outwards already, under this number. */
  decide(presentation: number, direction: Direction, mode: Mode, exit?: number): void;
  abandon(presentation: number): void;
  drop(presentation: number): void;
  /** The reader that a presentation came from, while it is known. */
  underWay(): number;
}

export interface DecisionsOptions {
  readonly decider: Pick<Decider, 'decide' | 'abandon' | 'prepare'>;
  readonly clock: Clock;
  readonly online: () => boolean;
  readonly ready: () => boolean;
  readonly dispatch: (input: UntimedInput) => void;
  /** A decision came back in time. `latencyUs`: from the code's last byte until the lane has acted on it. */
  readonly decided: (decision: Decision, presentation: Presentation, latencyUs: number) => void;
  /** The row of an exit: written, or not to be had from the decider. */
  readonly exits: Pick<PendingEntries, 'answered' | 'unanswered'>;
  /** The decider could not decide. */
  readonly failed: (error: unknown) => void;
  /** The decider answered: the disk works. */
  readonly answered: () => void;
}

/** Flags that are the gate's own state, not the guest's: no second beep for everybody. */
const GATE_FLAGS: ReadonlySet<string> = new Set(['clock_untrusted', 'manifest_stale', 'usage_lost']);

/** The staff shall look up: VIP, or admitted in spite of something. */
export function wantsAttention(grant: Grant): boolean {
  return grant.vip || grant.flags.some((flag) => !GATE_FLAGS.has(flag));
}

interface Waiting {
  readonly frame: Extract<ReaderEvent, { kind: 'frame' }>;
  presentation: Presentation | null;
}

export function createDecisions(options: DecisionsOptions): Decisions {
  const { decider, clock, exits } = options;
  const secret = randomBytes(32);
  const waiting = new Map<number, Waiting>();
  let next = 1;
  let underWay = 0;

  function informLane(presentation: number, { direction }: Presentation, { verdict, row }: Decision): void {
    const answer =
      verdict.kind === 'grant' ? ({ kind: 'grant', units: verdict.units, attention: wantsAttention(verdict) } as const) : ({ kind: 'refusal' } as const);
    options.dispatch({ kind: 'verdict', direction, presentation, row, verdict: answer });
  }

  /** The guest is on his way out already. */
  function tellOfExit(exit: number, { verdict, row }: Decision): void {
    exits.answered(exit, row, verdict.kind === 'refusal');
    if (verdict.kind === 'grant') options.dispatch({ kind: 'exit_granted', exit, units: verdict.units, attention: wantsAttention(verdict) });
  }

  function notDecided(number: number, direction: Direction, exit: number | null): void {
    if (exit === null) options.dispatch({ kind: 'decision_failed', direction, presentation: number });
    else exits.unanswered(exit);
  }

  async function ask(number: number, presentation: Presentation, exit: number | null): Promise<void> {
    underWay += 1;
    try {
      const decision = await decider.decide(presentation);
      options.answered();
      if (!waiting.delete(number)) return;
      if (exit === null) informLane(number, presentation, decision);
      else tellOfExit(exit, decision);
      options.decided(decision, presentation, (clock.boottimeMs() - presentation.lastByteMs) * 1_000);
    } catch (error) {
      options.failed(error);
      if (waiting.delete(number)) notDecided(number, presentation.direction, exit);
    } finally {
      underWay -= 1;
    }
  }

  return {
    present(frame) {
      const presentation = next;
      next += 1;
      waiting.set(presentation, { frame, presentation: null });
      const fingerprint = createHmac('sha256', secret).update(frame.bytes).digest('base64');
      return { kind: 'code', direction: frame.direction, presentation, fingerprint, lastByteMs: frame.lastByteMs };
    },
    coming() {
      if (options.ready() && underWay === 0) decider.prepare?.();
    },
    decide(number, direction, mode, exit) {
      const one = waiting.get(number);
      if (one === undefined) {
        if (exit !== undefined) exits.unanswered(exit);
        return;
      }
      const { bytes, reader, atMs, lastByteMs } = one.frame;
      one.presentation = { bytes, direction, reader, mode, atMs, lastByteMs, online: options.online(), ...(exit === undefined ? {} : { opened: true }) };
      if (options.ready() && underWay < MAX_DECISIONS_UNDER_WAY) {
        void ask(number, one.presentation, exit ?? null);
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
    underWay: () => underWay,
  };
}
