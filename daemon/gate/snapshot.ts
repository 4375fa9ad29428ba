/** Reads the gate's state from its parts: for people (a snapshot) and for charts (health). */
import type { Direction } from '../../contract/ids.ts';
import type { HealthMessage } from '../../contract/messages.ts';
import { effectiveMode, type LaneState } from '../lane/types.ts';
import type { Clock, DeciderStatus, Reader, Uplink } from '../ports.ts';
import type { DirectionView, GateSnapshot } from './live-feed.ts';
import type { ActiveAlert, ShownDecision } from './outcome.ts';
import type { Outputs } from './outputs.ts';
import type { ReaderWatch } from './reader-watch.ts';

/** Measurements of the process itself, for `health`. */
export interface HostHealth {
  readonly rss_mb: number;
  readonly uptime_s: number;
  readonly cpu_temp_c?: number;
  readonly under_voltage?: 0 | 1;
}

/** The parts that a snapshot reads. */
export interface GateParts {
  readonly gate: string;
  readonly clock: Clock;
  readonly uplink: Pick<Uplink, 'online'>;
  readonly readers: readonly Reader[];
  readonly outputs: Outputs;
  readonly lane: LaneState;
  readonly boardOk: boolean;
  readonly readerWatch: Pick<ReaderWatch, 'counts' | 'problem'>;
  readonly decider: DeciderStatus | null;
  readonly pendingEntryCount: number;
  readonly totals: GateSnapshot['totals'];
  readonly notTaken: GateSnapshot['notTaken'];
  readonly alerts: readonly ActiveAlert[];
  readonly decisions: readonly ShownDecision[];
}

/** Returns the snapshot of now. */
export function snapshotOf(from: GateParts): GateSnapshot {
  const { gate, clock, uplink, readers, readerWatch, outputs, lane, boardOk, decider, pendingEntryCount, totals, notTaken, alerts, decisions } = from;
  return {
    gate,
    wallMs: clock.wallMs(),
    in: viewOf(from, 'in'),
    out: viewOf(from, 'out'),
    buzzer: outputs.level('buzzer'),
    fire: { ...lane.fire },
    tamper: lane.tamper,
    online: uplink.online(),
    diskOk: lane.diskOk,
    boardOk,
    readers: readers.map((reader) => ({
      name: reader.name,
      direction: reader.direction,
      ok: reader.ok(),
      ...readerWatch.counts(reader.name),
      problem: readerWatch.problem(reader.name),
    })),
    decider,
    pendingEntryCount,
    totals,
    notTaken,
    alerts,
    decisions,
  };
}

function viewOf({ lane, outputs }: GateParts, direction: Direction): DirectionView {
  const { pendingMode, untilWallMs, signal, grant, deciding } = lane[direction];
  return {
    mode: effectiveMode(lane, direction),
    pendingMode: pendingMode?.mode ?? null,
    untilWallMs,
    signal,
    lamps: outputs.lamps()[direction],
    released: outputs.level(`release_${direction}`),
    grant: grant === null ? null : { unit: grant.unit, units: grant.units, phase: grant.phase },
    deciding: deciding !== null,
  };
}

const COUNTED = ['bytes', 'frames', 'garbled', 'unknown'] as const;

/** Returns the `health` message. `lagMs`: the loop's longest lag since the last one. */
export function healthOf(
  { clock, readers, readerWatch, lane, boardOk, decider, totals }: GateParts,
  host: HostHealth,
  lagMs: number,
): Omit<HealthMessage, 'schema'> {
  const offset = clock.offset();
  const manifest = newestManifest(decider);
  const [mode, modeOut] = [effectiveMode(lane, 'in'), effectiveMode(lane, 'out')];
  return {
    ...host,
    loop_lag_ms: Math.max(0, Math.round(lagMs)),
    disk_free_mb: Math.floor((decider?.diskFreeBytes ?? 0) / 1_048_576),
    clock_trusted: clock.trusted() ? 1 : 0,
    ...(offset === null ? {} : { clock_offset_ms: offset.offsetMs, clock_bound_ms: offset.boundMs }),
    backlog: decider?.backlog ?? 0,
    backlog_oldest_s: decider?.backlogOldestMs == null ? 0 : secondsSince(clock, decider.backlogOldestMs),
    manifest_version: manifest?.version ?? 0,
    manifest_age_s: manifest === null ? 0 : secondsSince(clock, manifest.generatedAtMs),
    reader_ok: readers.every((reader) => reader.ok()) ? 1 : 0,
    ...Object.fromEntries(readers.flatMap(({ name }) => COUNTED.map((what) => [`reader_${name}_${what}_total`, readerWatch.counts(name)[what]]))),
    ...(lane.fireKicks === 0 ? {} : { fire_kicks: lane.fireKicks }),
    board_ok: boardOk ? 1 : 0,
    mode,
    ...(modeOut === mode ? {} : { mode_out: modeOut }),
    admissions_total: totals.admissions,
    refusals_total: totals.refusals,
    passages_total: totals.passages,
  };
}

function newestManifest(decider: DeciderStatus | null): DeciderStatus['manifests'][number] | null {
  return (decider?.manifests ?? []).reduce<DeciderStatus['manifests'][number] | null>(
    (newest, one) => (newest === null || one.generatedAtMs > newest.generatedAtMs ? one : newest),
    null,
  );
}

function secondsSince(clock: Clock, wallMs: number): number {
  return Math.max(0, Math.round((clock.wallMs() - wallMs) / 1_000));
}
