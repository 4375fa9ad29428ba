/**
 * Guests who come to one gate, one after the other: each shows a code, is told something, and walks through or goes away.
 * What the gate said is read from its control socket, as an operator would see it.
 */
import type { RecentLine } from '../../daemon/control/protocol.ts';
import type { GateProcess } from '../../testkit/gate-process.ts';
import { EXPECTED, type Guest } from './plan.ts';

/** A gate that says nothing for so long has not seen the code (it was down, or its reader was pulled): the guest tries again. */
const ANSWER_MS = 8_000;
const TRIES = 5;
/** Through, or given back: a guest who was let in does not keep the next one waiting longer. */
const PASSAGE_MS = 12_000;
/** Between two guests at one gate. The turnstile itself wants a pause between pulses. */
const NEXT_GUEST_MS = 150;
const POLL_INTERVAL_MS = 25;

export interface Played {
  readonly guest: Guest;
  /** What the gate said; null: it never answered. */
  readonly line: RecentLine | null;
  readonly asExpected: boolean;
}

export interface PlayOptions {
  readonly gate: GateProcess;
  readonly guests: readonly Guest[];
  /** Resolves when that guest is through. */
  readonly through: (number: number) => Promise<void>;
  readonly played: (result: Played) => void;
  /** While it answers true, guests wait (the gate was killed, its reader pulled, the fire loop rings). */
  readonly paused: () => boolean;
  /** Ends the playing. */
  readonly signal: AbortSignal;
  /** Pause between guests in addition, so that people can follow. */
  readonly paceMs: number;
}

/** Plays all guests of one gate in order. */
export async function playGate({ gate, guests, through, played, paused, signal, paceMs }: PlayOptions): Promise<void> {
  for (const guest of guests) {
    if (guest.after !== null) await through(guest.after);
    let line: RecentLine | null = null;
    for (let tried = 0; tried < TRIES && line === null && !signal.aborted; tried++) {
      while (!signal.aborted && (paused() || !ready(gate))) await pause(POLL_INTERVAL_MS);
      if (signal.aborted) return;
      const answer = gate.line(({ kind }) => kind === 'granted' || kind === 'refused', ANSWER_MS);
      gate.show(guest.code);
      line = await answer.catch(() => null);
    }
    if (line?.kind === 'granted')
      // A lane that stays so is shown on the screen.
      await gate.until(({ signals }) => signals.in !== 'granted' && signals.in !== 'granted_attention', PASSAGE_MS).catch(() => undefined);
    played({ guest, line, asExpected: (line?.kind === 'granted') === (EXPECTED[guest.kind] === null) && line !== null });
    await pause(NEXT_GUEST_MS + paceMs);
  }
}

/** Takes the next code: not while a guest is under way, the lane is closed or there are no tickets yet. */
function ready(gate: GateProcess): boolean {
  const status = gate.status();
  return gate.running() && status !== null && status.manifests.length > 0 && (status.signals.in === 'ready' || status.signals.in === 'refused');
}

const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));
