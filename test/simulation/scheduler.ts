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

export function createScheduler(): Scheduler {
  let nowMs = 0;
  let serial = 0;
  let events = 0;
  const heap: Due[] = [];
  let real: Promise<unknown>[] = [];
  const settled = Promise.resolve();
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
  /** Calls `then` when every promise that can settle has: a tick runs when no microtask is left. */
  const whenSettled = (then: () => void): void => void settled.then(() => process.nextTick(afterWork, then));
  const afterWork = (then: () => void): void => {
    if (real.length === 0) return then();
    const waiting = real;
    real = [];
    void Promise.allSettled(waiting).then(() => whenSettled(then));
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
    runUntil: (atMs) =>
      new Promise((resolve, reject) => {
        const go = (): void => {
          while (heap.length > 0 && (heap[0] as Due).atMs <= atMs) {
            const { atMs: dueMs, owner, run } = pop();
            if (run === null || owner?.alive === false) continue;
            nowMs = Math.max(nowMs, dueMs);
            events += 1;
            try {
              run();
            } catch (error) {
              reject(error as Error);
              return;
            }
            whenSettled(go);
            return;
          }
          nowMs = Math.max(nowMs, atMs);
          resolve();
        };
        whenSettled(go);
      }),
    waitFor(work) {
      real.push(work);
    },
    settle: () => new Promise((resolve) => whenSettled(resolve)),
    get events() {
      return events;
    },
  };
}
