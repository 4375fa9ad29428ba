/**
 * Applies backpressure to the broker: while the bytes held exceed a bound, the next packet is not read. The connection then fills up and the broker
 * keeps the rest, so that a flood waits there and not in this process's memory.
 *
 * It never holds for longer than `maxMs` at a time: the broker's answers and keepalives use the same connection, and a longer hold would lose the
 * connection and everything that the broker queued for it. Afterwards every packet passes until fewer bytes are held, and the receivers drop
 * messages beyond their own bounds.
 */
export interface BackpressureOptions {
  /** Bytes held from which on it holds. One message more may come on top. */
  readonly maxBytes: number;
  /** Longest hold, ms. */
  readonly maxMs: number;
}

export interface Backpressure {
  /** Counts the bytes as held; call the returned function to release them. A second call does nothing. */
  acquire(bytes: number): () => void;
  /** Calls `next` when more may be read: at once, or in a later turn of the loop. Calls each exactly once. */
  gate(next: () => void): void;
  /** Returns the bytes held. */
  bytesHeld(): number;
  /** Stops holding: before the end, when answers must come through. */
  release(): void;
}

export function createBackpressure({ maxBytes, maxMs }: BackpressureOptions): Backpressure {
  let bytes = 0;
  let open = false;
  let ended = false;
  let timer: NodeJS.Timeout | undefined;
  const held: (() => void)[] = [];

  function resume(): void {
    clearTimeout(timer);
    timer = undefined;
    // In a turn of its own: the caller that releases is still working.
    for (const next of held.splice(0)) setImmediate(next);
  }

  return {
    acquire(size) {
      bytes += size;
      let mine = size;
      return () => {
        if (mine === 0) return;
        bytes -= mine;
        mine = 0;
        if (bytes >= maxBytes) return;
        open = false;
        resume();
      };
    },
    gate(next) {
      if (bytes < maxBytes || open || ended) return next();
      held.push(next);
      timer ??= setTimeout(() => {
        open = true;
        resume();
      }, maxMs);
    },
    bytesHeld: () => bytes,
    release() {
      ended = true;
      resume();
    },
  };
}
