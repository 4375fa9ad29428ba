/**
 * One time for everything in a simulated world: what is due runs in order, and promises settle in between.
 *
 * Whatever is scheduled belongs to an owner (a process of a gate, say); when it dies, nothing of it runs any more.
 */

/** A process, a connection: something that can end in the middle. */
export interface Owner {
  alive: boolean;
}

export interface Scheduler {
  /** True time, ms since the world began. */
  nowMs(): number;
  after(delayMs: number, owner: Owner | null, run: () => void): { cancel(): void };
  /** Runs everything that is due until then. */
  runUntil(atMs: number): Promise<void>;
  /** Work on real files that the simulated time must wait for. */
  waitFor(work: Promise<unknown>): void;
  /** Lets promises settle without time passing. */
  settle(): Promise<void>;
  readonly events: number;
}

interface Due {
  readonly atMs: number;
  readonly serial: number;
  readonly owner: Owner | null;
  run: (() => void) | null;
}

/** Turns of the microtask queue between two events: enough for the longest chain of promises; a longer one goes on beside the next event, in the same order every time. */
const SETTLE_TURNS = 14;

export function createScheduler(): Scheduler {
  let nowMs = 0;
  let serial = 0;
  let events = 0;
  const heap: Due[] = [];
  let real: Promise<unknown>[] = [];
  const before = (a: Due, b: Due): boolean => a.atMs < b.atMs || (a.atMs === b.atMs && a.serial < b.serial);

  const push = (due: Due): void => {
    let at = heap.push(due) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!before(due, heap[parent] as Due)) break;
      heap[at] = heap[parent] as Due;
      at = parent;
    }
    heap[at] = due;
  };
  const pop = (): Due => {
    const first = heap[0] as Due;
    const last = heap.pop() as Due;
    if (heap.length > 0) {
      let at = 0;
      for (;;) {
        let child = 2 * at + 1;
        if (child >= heap.length) break;
        if (child + 1 < heap.length && before(heap[child + 1] as Due, heap[child] as Due)) child += 1;
        if (!before(heap[child] as Due, last)) break;
        heap[at] = heap[child] as Due;
        at = child;
      }
      heap[at] = last;
    }
    return first;
  };
  const settle = async (): Promise<void> => {
    for (let turn = 0; turn < SETTLE_TURNS; turn++) await null;
    while (real.length > 0) {
      const waiting = real;
      real = [];
      await Promise.allSettled(waiting);
      for (let turn = 0; turn < SETTLE_TURNS; turn++) await null;
    }
  };

  return {
    nowMs: () => nowMs,
    after(delayMs, owner, run) {
      const due: Due = { atMs: nowMs + Math.max(0, delayMs), serial: serial++, owner, run };
      push(due);
      return {
        cancel() {
          due.run = null;
        },
      };
    },
    async runUntil(atMs) {
      await settle();
      while (heap.length > 0 && (heap[0] as Due).atMs <= atMs) {
        const { atMs: dueMs, owner, run } = pop();
        if (run === null || owner?.alive === false) continue;
        nowMs = Math.max(nowMs, dueMs);
        events += 1;
        run();
        await settle();
      }
      nowMs = Math.max(nowMs, atMs);
    },
    waitFor(work) {
      real.push(work);
    },
    settle,
    get events() {
      return events;
    },
  };
}
