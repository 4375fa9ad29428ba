/** When `health` is due besides its period: as soon as there is a connection, and when one of its flags changes. */
import type { GateEvent, GateSnapshot } from '../gate/live-feed.ts';

/** Two healths are at least so far apart: a flag that flutters costs no more than this. ms */
export const HEALTH_GAP_MS = 1_000;

export interface HealthReportsOptions {
  readonly subscribe: (listener: (event: GateEvent) => void) => () => void;
  readonly clockTrusted: () => boolean;
  readonly publish: () => void;
  readonly nowMs: () => number;
  readonly after: (ms: number, call: () => void) => { cancel(): void };
}

export interface HealthReports {
  /** Looks at what no snapshot tells of; call every second or so. */
  look(): void;
  /** The period's health went out by itself. */
  published(): void;
  close(): void;
}

/** What a chart or an alarm hangs on: all of `health` that is a word or 0 and 1, and whether anybody can hear it. */
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
  let said = '';
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
    if (flags === said) return;
    said = flags;
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
