/**
 * How the store is doing: opened, and again where it does not open; failed and working again; the fire latch on the
 * disk; its status from time to time. Alerts `disk`, `manifest` and `ledger` are raised here. Nothing here holds the lane.
 */
import type { Direction } from '../../contract/ids.ts';
import { cutText } from '../../contract/text.ts';
import type { BaseMode, LaneNote, LaneState } from '../lane/types.ts';
import type { Log } from '../log/log.ts';
import type { Clock, Decider, DeciderStatus, Fault } from '../ports.ts';
import type { Timers } from '../timers.ts';
import type { Alerts } from './alerts.ts';
import type { UntimedInput } from './commands.ts';

/** The decider is asked for its status so often, ms. */
export const STATUS_MS = 5_000;
/** `open` waits so long for the decider, then goes on without it: codes are refused with `error` until it is open. ms */
const DESK_WAIT_MS = 5_000;
/** Pause before a decider that could not be opened is tried again, ms; doubled each time up to the greatest. */
const DESK_RETRY_MS = { first: 2_000, greatest: 30_000 } as const;
/** Of a cause, in a row. */
const MAX_DETAIL_CHARS = 500;

export interface StoreSupervisor {
  /** Waits for the decider within a bound; one that fails or stalls is tried again on its own. Never rejects. */
  open(): Promise<void>;
  isOpen(): boolean;
  status(): DeciderStatus | null;
  /** An acknowledgement said how much still waits. */
  backlog(rows: number): void;
  /** A call to the decider was refused. */
  failed(error: unknown): void;
  /** The decider does not answer, or not in time. */
  bad(why: string): void;
  /** The decider did what it was asked. */
  works(): void;
  persistFireLatch(latched: boolean): void;
  /** Call it from time to time: what failed is tried again, the status asked for. */
  around(): void;
  /** What the decider holds has changed: its status is asked for with the next look around, not only after STATUS_MS. */
  look(): void;
  close(): void;
}

export interface StoreSupervisorOptions {
  readonly decider: Pick<Decider, 'open' | 'status' | 'setFireLatch'>;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly log: Log;
  readonly alerts: Alerts;
  readonly lane: () => LaneState;
  readonly dispatch: (input: UntimedInput) => void;
  readonly note: (note: LaneNote) => void;
  /** Why the ticket list could not be fetched; null: nothing is known to stand in the way. */
  readonly fetchProblem: () => string | null;
  /** The decider said how it is. */
  readonly heard: (status: DeciderStatus) => void;
  /** More rows are to be sent again than before. */
  readonly again: () => void;
  /** The decider is open: notes may be written. */
  readonly opened: () => void;
  readonly changed: () => void;
}

export function createStoreSupervisor(options: StoreSupervisorOptions): StoreSupervisor {
  const { decider, clock, timers, log, alerts, lane, dispatch } = options;
  let status: DeciderStatus | null = null;
  let isOpen = false;
  let closed = false;
  let asked = false;
  /** Rows that are sent again, as last heard. */
  let resent = 0;
  let lookSoon = false;
  let askedAtMs = Number.NEGATIVE_INFINITY;
  let retry: { cancel(): void } | null = null;
  let latchWanted: boolean | null = null;
  let latchUnderWay = false;

  function failed(error: unknown): void {
    const fault = (error as { fault?: Fault } | null)?.fault;
    bad(fault === undefined ? (error instanceof Error ? error.message : String(error)) : `${fault.operation}: ${fault.cause}. ${fault.hint}`);
  }

  function bad(why: string): void {
    alerts.raise('disk', 'critical', `nothing can be recorded, so nobody is admitted: ${why}`);
    if (!lane().diskOk) return;
    log.error('the store failed', { cause: why });
    dispatch({ kind: 'condition', condition: 'disk', ok: false });
    // Tried again until it is written, it shows when the disk works.
    options.note({ kind: 'fault', what: 'disk', detail: cutText(why, MAX_DETAIL_CHARS) });
  }

  function works(): void {
    if (lane().diskOk) return;
    alerts.clear('disk');
    log.info('the store works again');
    dispatch({ kind: 'condition', condition: 'disk', ok: true });
  }

  function persistFireLatch(latched: boolean): void {
    latchWanted = latched;
    if (!isOpen || latchUnderWay) return;
    latchUnderWay = true;
    decider
      .setFireLatch(latched)
      .then(() => {
        if (latchWanted === latched) latchWanted = null;
      }, failed)
      .finally(() => {
        latchUnderWay = false;
      });
  }

  async function openDecider(waitMs: number): Promise<void> {
    try {
      status = await decider.open();
    } catch (error) {
      failed(error);
      dispatch({ kind: 'condition', condition: 'booted', ok: true });
      if (!closed) retry = timers.after(waitMs, () => void openDecider(Math.min(waitMs * 2, DESK_RETRY_MS.greatest)));
      return;
    }
    isOpen = true;
    askedAtMs = clock.boottimeMs();
    // An order of this process that is not on the disk yet is newer than what the disk says.
    dispatch({
      kind: 'restore',
      modes: { in: restored(status, 'in'), out: restored(status, 'out') },
      fireLatched: status.fireLatched && latchWanted !== false,
    });
    works();
    options.opened();
    options.heard(status);
    judge(status);
    dispatch({ kind: 'condition', condition: 'booted', ok: true });
    if (latchWanted !== null) persistFireLatch(latchWanted);
  }

  async function askStatus(): Promise<void> {
    asked = true;
    lookSoon = false;
    try {
      status = await decider.status();
      options.heard(status);
      judge(status);
    } catch (error) {
      failed(error);
    } finally {
      asked = false;
      askedAtMs = clock.boottimeMs();
      options.changed();
    }
  }

  function judge({ manifests, usageComplete, resentRows = 0 }: DeciderStatus): void {
    const stale = manifests.filter((one) => one.expiresAtMs <= clock.wallMs());
    const problem = options.fetchProblem();
    const because = problem === null ? '' : `. ${problem}`;
    if (manifests.length === 0) alerts.raise('manifest', 'critical', `no ticket list: nobody can be admitted${because}`);
    else if (stale.length > 0) alerts.raise('manifest', 'warning', `the ticket list is too old: ${stale.map((one) => one.eventId).join(', ')}${because}`);
    else if (problem !== null) alerts.raise('manifest', 'warning', `the ticket list is not up to date${because}`);
    else alerts.clear('manifest');
    if (lane().manifestOk !== manifests.length > 0) dispatch({ kind: 'condition', condition: 'manifest', ok: manifests.length > 0 });
    const wrong = [
      ...(usageComplete ? [] : ['usage is not complete: this gate does not yet know everybody who is inside']),
      ...(resentRows === 0
        ? []
        : [`${resentRows} rows that the cloud had acknowledged are sent again: it does not hold them any more, or somebody ordered it`]),
    ];
    if (wrong.length === 0) alerts.clear('ledger');
    else alerts.raise('ledger', 'warning', wrong.join('; '));
    // What an ack has not said by itself: rows before those in flight wait.
    if (resentRows > resent) options.again();
    resent = resentRows;
  }

  return {
    async open() {
      // A disk that stalls at the start holds neither the button nor the readers.
      await new Promise<void>((resolve) => {
        const late = timers.after(DESK_WAIT_MS, resolve);
        void openDecider(DESK_RETRY_MS.first).then(() => {
          late.cancel();
          resolve();
        });
      });
      if (!isOpen && lane().diskOk) bad('the store does not open in time');
    },
    isOpen: () => isOpen,
    status: () => status,
    backlog(rows) {
      if (status !== null) status = { ...status, backlog: rows };
    },
    failed,
    bad,
    works,
    persistFireLatch,
    around() {
      if (latchWanted !== null) persistFireLatch(latchWanted);
      if (isOpen && !asked && (lookSoon || clock.boottimeMs() - askedAtMs >= STATUS_MS)) void askStatus();
    },
    look() {
      lookSoon = true;
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
