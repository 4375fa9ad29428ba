/** A minute in the life of a venue: what happens by itself while guests walk in, each with a sentence that says what to look at. */
import type { Actions } from './actions.ts';

interface Scene {
  readonly atMs: number;
  readonly run: (actions: Actions) => Promise<string> | string;
}

const SCENES: readonly Scene[] = [
  { atMs: 0, run: () => 'guests walk in: good tickets, used ones, unknown, cancelled, for another zone, and rubbish' },
  { atMs: 10_000, run: () => 'watch the second gate refuse a ticket that the first has just admitted: it heard of it within milliseconds' },
  {
    atMs: 20_000,
    run: async (actions) => {
      await actions.cutBroker();
      return 'the broker is cut: both gates go on, alone; rows wait in their ledgers';
    },
  },
  {
    atMs: 34_000,
    run: async (actions) => {
      await actions.restoreBroker();
      return 'the broker is back: what waited goes out in order, and counts become equal';
    },
  },
  { atMs: 44_000, run: (actions) => actions.killInPassage() },
  { atMs: 50_000, run: (actions) => actions.startGate() },
  { atMs: 58_000, run: () => 'that was the minute; guests go on. Show a code yourself, or press a key' },
];

/** Plays the scenes; ends early when `signal` aborts. */
export async function runScript(actions: Actions, say: (text: string) => void, signal: AbortSignal): Promise<void> {
  const began = performance.now();
  for (const scene of SCENES) {
    const waitMs = Math.max(0, scene.atMs - (performance.now() - began));
    await new Promise<void>((resolve) => {
      const timer = setTimeout(done, waitMs);
      function done() {
        clearTimeout(timer);
        signal.removeEventListener('abort', done);
        resolve();
      }
      signal.addEventListener('abort', done);
    });
    if (signal.aborted) return;
    try {
      say(await scene.run(actions));
    } catch (error) {
      say(`this did not work: ${(error as Error).message}`);
    }
  }
}
