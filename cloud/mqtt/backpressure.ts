/**
 * The brake on what is taken from the broker: while more than so many bytes are in hand, the next packet is not taken. The broker
 * then feels a full connection and keeps the rest, so that a flood waits there and not in this process's memory.
 *
 * It never holds for longer than `maxMs` at a time. Answers of the broker come by the same connection as the flood, and so does the
 * sign that it still lives: whoever holds them up for longer loses the connection, and with it what the broker kept. After that time
 * everything passes until less is in hand, and the takers let go what is beyond their own bounds.
 */
export interface BackpressureOptions {
  /** Bytes in hand from which on the brake holds. One message more may come on top. */
  readonly maxBytes: number;
  /** How long it holds at most, ms. */
  readonly maxMs: number;
}

export interface Backpressure {
  /** So many bytes are in hand now; call what is returned when they are not any more. Again: nothing happens. */
  acquire(bytes: number): () => void;
  /** Calls `next` when more may be taken: at once, or in a later turn of the loop. Each is called exactly once. */
  gate(next: () => void): void;
  /** Bytes in hand. */
  bytesHeld(): number;
  /** Holds nobody any more: before the end, when answers must come through. */
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
    // In a turn of its own: whoever gives back is in the midst of something.
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
