/** Publishes `health` besides its period: on connect, and when one of its flags changes. */
import type { GateEvent, GateSnapshot } from '../gate/live-feed.ts';

/** Shortest time between two healths, in ms, so that a fluttering flag causes no more. */
export const HEALTH_GAP_MS = 1_000;

export interface HealthReportsOptions {
  readonly subscribe: (listener: (event: GateEvent) => void) => () => void;
  readonly clockTrusted: () => boolean;
  readonly publish: () => void;
  readonly nowMs: () => number;
  readonly after: (ms: number, call: () => void) => { cancel(): void };
}

export interface HealthReports {
  /** Checks values that no snapshot holds; call it about every second. */
  look(): void;
  /** Records that the periodic health was published. */
  published(): void;
  close(): void;
}

/** Returns the flags of `health` that charts and alarms use, and whether the gate is online. */
const flagsOf = ({ online, boardOk, diskOk, readers, decider, in: inward, out: outward }: GateSnapshot, trusted: boolean): string =>
  JSON.stringify([
    online,
    boardOk,
    diskOk,
    trusted,
    readers.map(({ ok }) => ok),
    inward.mode,
    outward.mode,
    decider?.manifests.map(({ eventId, version }) => [eventId, version]) ?? null,
  ]);

export function createHealthReports(options: HealthReportsOptions): HealthReports {
  let snapshot: GateSnapshot | null = null;
  let flagged = '';
  let publishedMs = Number.NEGATIVE_INFINITY;
  let waiting: { cancel(): void } | null = null;
  const go = () => {
    waiting = null;
    publishedMs = options.nowMs();
    options.publish();
  };
  const look = () => {
    if (snapshot === null) return;
    const flags = flagsOf(snapshot, options.clockTrusted());
    if (flags === flagged) return;
    flagged = flags;
    if (!snapshot.online || waiting !== null) return;
    const restMs = publishedMs + HEALTH_GAP_MS - options.nowMs();
    if (restMs <= 0) go();
    else waiting = options.after(restMs, go);
  };
  const end = options.subscribe((event) => {
    if (event.kind !== 'snapshot') return;
    snapshot = event.snapshot;
    look();
  });
  return {
    look,
    published() {
      publishedMs = options.nowMs();
      waiting?.cancel();
      waiting = null;
    },
    close() {
      end();
      waiting?.cancel();
    },
  };
}
