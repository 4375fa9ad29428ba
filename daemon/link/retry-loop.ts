/** Runs background work until it succeeds: one round at a time, with backoff. */
import { setTimeout as sleep } from 'node:timers/promises';
import { errorText } from '../../runtime/error-text.ts';
import { createBackoff } from './backoff.ts';

/** `lasting`: an early retry fails as well. */
export type Outcome = { readonly ok: true } | { readonly ok: false; readonly lasting: boolean; readonly message: string };

/** Turns a rejection into a failure that is retried. */
export const attempted = (work: Promise<Outcome>): Promise<Outcome> =>
  work.catch((error: unknown): Outcome => ({ ok: false, lasting: false, message: errorText(error) }));

export interface RetryLoop {
  /** Starts a round, and ends a wait between attempts. */
  kick(): void;
  /** Starts a round and resolves after one attempt. */
  attempt(): Promise<void>;
  idle(): Promise<void>;
  failing(): string | null;
}

/** Creates a worker. A `lasting` failure waits the longest time, or until `kick`. */
export function createRetryLoop(options: {
  readonly firstMs: number;
  readonly maxMs: number;
  readonly stopped: AbortSignal;
  readonly round: () => Promise<Outcome>;
  readonly failed: (message: string, failures: number, lasting: boolean) => void;
  readonly done: () => void;
}): RetryLoop {
  const backoff = createBackoff(options);
  let running: Promise<void> | null = null;
  let kicked = false;
  let failing: string | null = null;
  let wake: (() => void) | null = null;
  let attempts: (() => void)[] = [];

  const run = async () => {
    while (kicked && !options.stopped.aborted) {
      kicked = false;
      const waiting = attempts;
      attempts = [];
      const outcome = await options.round().catch((error: unknown): Outcome => ({ ok: false, lasting: false, message: errorText(error) }));
      failing = outcome.ok ? null : outcome.message;
      if (!options.stopped.aborted) {
        if (outcome.ok) {
          backoff.reset();
          options.done();
        } else options.failed(outcome.message, backoff.failures() + 1, outcome.lasting);
      }
      for (const answer of waiting) answer();
      if (outcome.ok || options.stopped.aborted) continue;
      const waitMs = Math.max(backoff.next(), outcome.lasting ? options.maxMs / 2 : 0);
      if (!kicked) await interrupted(waitMs);
      kicked = true;
    }
    for (const answer of attempts.splice(0)) answer();
  };
  const interrupted = async (ms: number) => {
    const woken = new AbortController();
    wake = () => woken.abort();
    // Woken or stopped: the loop checks both.
    await sleep(ms, undefined, { signal: AbortSignal.any([woken.signal, options.stopped]) }).catch(() => undefined);
    wake = null;
  };
  const kick = () => {
    kicked = true;
    wake?.();
    if (running === null && !options.stopped.aborted)
      running = run().finally(() => {
        running = null;
        if (kicked && !options.stopped.aborted) kick();
      });
  };
  return {
    kick,
    attempt: () =>
      new Promise((resolve) => {
        if (options.stopped.aborted) return resolve();
        attempts.push(resolve);
        kick();
      }),
    idle: async () => {
      await running;
    },
    failing: () => failing,
  };
}
