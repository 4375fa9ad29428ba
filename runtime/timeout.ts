/** Bounds the wait for work that may never finish. */

/** Resolves as `work` does, or with `otherwise` after `timeoutMs`. The work goes on; only the wait ends. */
export async function withTimeout<T, U>(work: Promise<T>, timeoutMs: number, otherwise: U): Promise<T | U> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<U>((resolve) => {
    timer = setTimeout(() => resolve(otherwise), timeoutMs);
  });
  try {
    return await Promise.race([work, timeout]);
  } finally {
    clearTimeout(timer);
  }
}
