/** One answer for many who ask at once. */

/**
 * Asks `work` once for all who ask while it runs and for `keptMs` after it has answered; a failure is given to those who wait, and not
 * kept. For what anybody may ask, as often as they like, and that costs more than saying no: however many ask, it is done so many times
 * a second at most.
 */
export function coalesce<T>(work: () => Promise<T>, keptMs: number, now: () => number = () => performance.now()): () => Promise<T> {
  let running: Promise<T> | null = null;
  let kept: { readonly answer: T; readonly untilMs: number } | null = null;
  return () => {
    if (kept !== null && now() < kept.untilMs) return Promise.resolve(kept.answer);
    running ??= work()
      .then((answer) => {
        kept = { answer, untilMs: now() + keptMs };
        return answer;
      })
      .finally(() => {
        running = null;
      });
    return running;
  };
}
