/**
 * Supervises the store: opens it, retries, persists the fire latch, reads its status, and raises the alerts `disk`, `manifest`
 * and `ledger`. Never blocks the lane.
 */
import type { Direction } from '../../contract/ids.ts';
import type { AlertId, Severity } from '../../contract/messages.ts';
import { cutText } from '../../contract/text.ts';
import type { BaseMode, LaneState } from '../lane/types.ts';
import type { Log } from '../log/log.ts';
import type { Clock, Decider, DeciderStatus, Fault, GateSync } from '../ports.ts';
import type { Timers } from '../timers.ts';
import { MAX_DETAIL_CHARS, type Report, type UntimedInput } from './outcome.ts';

/** Interval of the decider's status, ms. */
export const STATUS_MS = 5_000;
/** `open` waits this long for the decider, ms; then it resolves without it, and codes are refused with `error` until the decider is open. */
const OPEN_WAIT_MS = 5_000;
/** Pause before the open is retried, ms; doubled each time up to the greatest. */
const OPEN_RETRY_MS = { first: 2_000, greatest: 30_000 } as const;

export interface StoreSupervisor {
  /** Waits for the decider within a bound; retries one that fails or stalls. Never rejects. */
  open(): Promise<void>;
  isOpen(): boolean;
  status(): DeciderStatus | null;
  /** Takes the backlog of an acknowledgement into the status. */
  backlog(rows: number): void;
  /** Marks the store failed by what a call to the decider threw. */
  onError(error: unknown): void;
  /** Marks the store failed: alert, fault row, and codes are refused with `error`. */
  markFailed(why: string): void;
  /** Ends what `markFailed` began. */
  markHealthy(): void;
  persistFireLatch(latched: boolean): void;
  /** Retries the fire latch, and reads the status when it is due. */
  poll(): void;
  /** Reads the status with the next poll, not only after STATUS_MS. */
  refreshSoon(): void;
  close(): void;
}

export interface StoreSupervisorOptions {
  readonly decider: Pick<Decider, 'open' | 'status' | 'setFireLatch'>;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly log: Log;
  readonly sync: Pick<GateSync, 'problem'>;
  readonly lane: () => LaneState;
  readonly report: Report;
}

export function createStoreSupervisor(options: StoreSupervisorOptions): StoreSupervisor {
  const { decider, clock, timers, log, sync, lane, report } = options;
  const dispatch = (input: UntimedInput) => report({ kind: 'lane_input', input });
  let status: DeciderStatus | null = null;
  let isOpen = false;
  let closed = false;
  let reading = false;
  /** Rows that are sent again, by the last status. */
  let resent = 0;
  /** The store went back in time, and everything was written again, by the last status. */
  let writtenAgain = false;
  let isClone = false;
  let due = false;
  let readAtMs = Number.NEGATIVE_INFINITY;
  let retry: { cancel(): void } | null = null;
  let wantedLatch: boolean | null = null;
  let latchInFlight = false;

  function onError(error: unknown): void {
    const fault = (error as { fault?: Fault } | null)?.fault;
    markFailed(fault === undefined ? (error instanceof Error ? error.message : String(error)) : `${fault.operation}: ${fault.cause}. ${fault.hint}`);
  }

  function markFailed(why: string): void {
    report({ kind: 'raise', alert: 'disk', severity: 'critical', message: `nothing can be recorded, so nobody is admitted: ${why}` });
    if (!lane().diskOk) return;
    log.error('write to the store failed', { cause: why });
    dispatch({ kind: 'condition', condition: 'disk', ok: false });
    // Retried until it is committed, so its row follows when the disk works.
    report({ kind: 'entry', note: { kind: 'fault', what: 'disk', detail: cutText(why, MAX_DETAIL_CHARS) } });
  }

  function markHealthy(): void {
    if (lane().diskOk) return;
    report({ kind: 'clear', alert: 'disk' });
    log.info('the store works again');
    dispatch({ kind: 'condition', condition: 'disk', ok: true });
  }

  function persistFireLatch(latched: boolean): void {
    wantedLatch = latched;
    if (!isOpen || latchInFlight) return;
    latchInFlight = true;
    decider
      .setFireLatch(latched)
      .then(() => {
        if (wantedLatch === latched) wantedLatch = null;
      }, onError)
      .finally(() => {
        latchInFlight = false;
      });
  }

  async function openDecider(waitMs: number): Promise<void> {
    try {
      status = await decider.open();
    } catch (error) {
      onError(error);
      dispatch({ kind: 'condition', condition: 'booted', ok: true });
      if (!closed) retry = timers.after(waitMs, () => void openDecider(Math.min(waitMs * 2, OPEN_RETRY_MS.greatest)));
      return;
    }
    isOpen = true;
    readAtMs = clock.boottimeMs();
    // An order of this process that is not on the disk yet is newer than what the disk says.
    dispatch({
      kind: 'restore',
      modes: { in: restored(status, 'in'), out: restored(status, 'out') },
      fireLatched: status.fireLatched && wantedLatch !== false,
    });
    markHealthy();
    report({ kind: 'store_opened', status });
    report({ kind: 'store_status', status });
    judge(status);
    dispatch({ kind: 'condition', condition: 'booted', ok: true });
    if (wantedLatch !== null) persistFireLatch(wantedLatch);
  }

  async function readStatus(): Promise<void> {
    reading = true;
    due = false;
    try {
      status = await decider.status();
      report({ kind: 'store_status', status });
      judge(status);
    } catch (error) {
      onError(error);
    } finally {
      reading = false;
      readAtMs = clock.boottimeMs();
      report({ kind: 'view_changed' });
    }
  }

  const raise = (alert: AlertId, severity: Severity, message: string) => report({ kind: 'raise', alert, severity, message });

  function judge({ manifests, usageComplete, resentRows = 0, wentBack = null, clone = false }: DeciderStatus): void {
    const stale = manifests.filter((one) => one.expiresAtMs <= clock.wallMs());
    const problem = sync.problem?.() ?? null;
    const because = problem === null ? '' : `. ${problem}`;
    if (manifests.length === 0) raise('manifest', 'critical', `no ticket list: nobody can be admitted${because}`);
    else if (stale.length > 0) raise('manifest', 'warning', `the ticket list is too old: ${stale.map((one) => one.eventId).join(', ')}${because}`);
    else if (problem !== null) raise('manifest', 'warning', `the ticket list is not up to date${because}`);
    else report({ kind: 'clear', alert: 'manifest' });
    if (lane().manifestOk !== manifests.length > 0) dispatch({ kind: 'condition', condition: 'manifest', ok: manifests.length > 0 });
    const wrong = [
      ...(usageComplete ? [] : ['usage is not complete: this gate does not yet know everybody who is inside']),
      ...(resentRows === 0
        ? []
        : [`${resentRows} rows that the cloud had acknowledged are sent again: it does not hold them any more, or somebody ordered it`]),
      ...(wentBack === null
        ? []
        : [`this store went back in time (a restored card, or a copy put back): ${wentBack.rows + wentBack.left} rows are sent once more under a new epoch`]),
    ];
    if (wrong.length === 0) report({ kind: 'clear', alert: 'ledger' });
    else raise('ledger', 'warning', wrong.join('; '));
    // The acks do not say it by themselves: rows before those in flight wait.
    if (resentRows > resent) report({ kind: 'rows_resent' });
    resent = resentRows;
    const isWritten = wentBack !== null && wentBack.left === 0;
    if (isWritten && !writtenAgain) report({ kind: 'rows_resent' });
    writtenAgain = isWritten;
    if (clone)
      raise(
        'clone',
        'critical',
        "this store went back in time too often within a day: another device may write under this gate's name. The gate goes on offline; take the other device away",
      );
    else if (isClone) report({ kind: 'clear', alert: 'clone' });
    isClone = clone;
  }

  return {
    async open() {
      // A disk that stalls at the start holds neither the button nor the readers.
      await new Promise<void>((resolve) => {
        const late = timers.after(OPEN_WAIT_MS, resolve);
        void openDecider(OPEN_RETRY_MS.first).then(() => {
          late.cancel();
          resolve();
        });
      });
      if (!isOpen && lane().diskOk) markFailed('the store does not open in time');
    },
    isOpen: () => isOpen,
    status: () => status,
    backlog(rows) {
      if (status !== null) status = { ...status, backlog: rows };
    },
    onError,
    markFailed,
    markHealthy,
    persistFireLatch,
    poll() {
      if (wantedLatch !== null) persistFireLatch(wantedLatch);
      if (isOpen && !reading && (due || clock.boottimeMs() - readAtMs >= STATUS_MS)) void readStatus();
    },
    refreshSoon() {
      due = true;
    },
    close() {
      closed = true;
      retry?.cancel();
    },
  };
}

/** In emergency the mode before it is what a reset goes back to; where that is not known, only ticket holders pass. */
function restored(status: DeciderStatus, direction: Direction): { readonly mode: BaseMode; readonly untilWallMs: number | null } {
  const { mode, untilMs, from } = status.modes[direction];
  return { mode: mode !== 'emergency' ? mode : from === undefined || from === 'emergency' ? 'controlled' : from, untilWallMs: untilMs };
}
