/** Shares one answer among concurrent callers. */

/**
 * Runs `work` once for all callers that arrive while it runs and for `keptMs` after its answer; a failure rejects those that wait, and is not kept.
 * Used for open paths that anybody may call without limit: however many call, `work` runs at a bounded rate.
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
