/**
 * Sends the ledger: batches in order, a bounded number in flight, each released by the cloud's `ack` alone.
 *
 * A PUBACK releases nothing: a killed broker loses messages that it has acknowledged. Without an ack, the sender resends the oldest
 * batch as a probe, with backoff; when an ack answers a probe, it resends all batches sent before the probe.
 * No state survives a connection: the next one begins with the ledger's oldest unacknowledged row.
 *
 * The site's other gates read the same messages and need a guest's rows at once, even when the cloud is down. So while no ack
 * arrives the window slides: batches that the broker has taken are evicted for newer rows, and are resent after the next ack.
 */
import type { RowPosition } from '../../contract/ids.ts';
import type { AckMessage } from '../../contract/ledger.ts';
import { MAX_BATCHES_IN_FLIGHT } from '../../contract/limits.ts';
import type { OutboxBatch } from '../ports.ts';
import { systemTimers, type Timers } from '../timers.ts';
import { createBackoff } from './backoff.ts';
import type { Published } from './mqtt-session.ts';

/** Wait for an ack, in ms, before the sender resends the oldest batch; doubles to RESEND_MAX_MS. */
export const RESEND_FIRST_MS = 5_000;
export const RESEND_MAX_MS = 60_000;
/** Wait, in ms, before the sender retries a failed read of the ledger; doubles to RESEND_MAX_MS. */
export const READ_RETRY_FIRST_MS = 1_000;
/** Interval of the question what the cloud holds, in ms, from the connect on: a database that was restored shows by its answer. */
export const QUESTION_PERIOD_MS = 30_000;
/** Time, in ms, in which the sender does not resend rows that an ack has just released but the decider still returns. */
const SETTLE_MS = 1_000;

export interface LedgerSenderOptions {
  readonly nextBatch: (after: RowPosition | null) => Promise<OutboxBatch | null>;
  /** A ledger message without rows; null: the cloud does not answer such. */
  readonly question?: () => Promise<Uint8Array | null>;
  /** Reads a monotonic clock, ms. */
  readonly nowMs: () => number;
  /** Reports that the broker refused a batch with this MQTT reason code. The sender retries it. */
  readonly refused: (code: number) => void;
  /** Reports that reading the ledger failed. */
  readonly failed: (error: Error) => void;
  readonly resendFirstMs?: number;
  readonly resendMaxMs?: number;
  /** Default: the runtime's. */
  readonly timers?: Timers;
  /** For the jitter of waits, 0 ≤ x < 1. Default: Math.random. */
  readonly random?: () => number;
}

export interface LedgerSender {
  /** Starts on a new connection, with the oldest unacknowledged row. */
  start(send: (payload: Uint8Array) => Promise<Published>): void;
  /** Stops: the connection has ended. Keeps no state. */
  stop(): void;
  /** Sends new rows. Cheap: call it after every commit. `again`: empties the window and begins with the oldest row. */
  kick(again?: boolean): void;
  /** Releases acknowledged batches. Call it after the decider has applied the same ack. */
  acknowledged(ack: AckMessage): void;
  inFlight(): number;
}

interface InFlight {
  readonly epoch: number;
  readonly fromSeq: number;
  readonly uptoSeq: number;
  readonly payload: Uint8Array;
  /** Time of the last send and of the first. */
  sentMs: number;
  readonly sinceMs: number;
  /** The broker has taken it, so other gates can receive it. */
  taken: boolean;
}

export function createLedgerSender(options: LedgerSenderOptions): LedgerSender {
  const { nowMs, timers = systemTimers(), random = Math.random } = options;
  const silentMs = options.resendFirstMs ?? RESEND_FIRST_MS;
  const resend = createBackoff({ firstMs: options.resendFirstMs ?? RESEND_FIRST_MS, maxMs: options.resendMaxMs ?? RESEND_MAX_MS, random });
  const reading = createBackoff({ firstMs: READ_RETRY_FIRST_MS, maxMs: RESEND_MAX_MS, random });
  let send: ((payload: Uint8Array) => Promise<Published>) | null = null;
  let inFlight: InFlight[] = [];
  let connection = 0;
  let pumping = false;
  let again = false;
  let probedMs: number | null = null;
  let resendTimer: { cancel(): void } | undefined;
  let retryTimer: { cancel(): void } | undefined;
  let questionTimer: { cancel(): void } | undefined;
  /** The window slid over rows that the cloud has not acknowledged. */
  let slid = false;
  let released: { epoch: number; uptoSeq: number; atMs: number } | null = null;

  const transmit = (batch: InFlight) => {
    batch.sentMs = nowMs();
    void send?.(batch.payload).then((published) => {
      if (published.result === 'refused') options.refused(published.code);
      if (published.result !== 'sent' || batch.taken) return;
      batch.taken = true;
      if (slid) void pump();
    });
  };
  /** Returns whether the window has room for a batch. Evicts the second oldest when no ack has arrived for long; the oldest stays as the probe. */
  const room = (): boolean => {
    if (inFlight.length < MAX_BATCHES_IN_FLIGHT) return true;
    const [oldest, next, ...rest] = inFlight;
    if (oldest === undefined || next === undefined || nowMs() - oldest.sinceMs < silentMs) return false;
    slid = true;
    if (!next.taken) return false;
    inFlight = [oldest, ...rest];
    return true;
  };
  const armResend = () => {
    resendTimer?.cancel();
    if (inFlight.length > 0 && send !== null) resendTimer = timers.after(resend.next(), probe);
  };
  const probe = () => {
    const oldest = inFlight[0];
    if (oldest === undefined || send === null) return;
    probedMs = nowMs();
    transmit(oldest);
    armResend();
    void pump();
  };
  const ask = () => {
    const mine = connection;
    questionTimer = timers.after(QUESTION_PERIOD_MS, ask);
    // Rows that were written without anybody's order wait for no longer than this.
    void pump();
    if (options.question === undefined) return;
    options.question().then((payload) => {
      if (payload !== null && mine === connection) void send?.(payload);
    }, options.failed);
  };
  const later = (ms: number) => {
    retryTimer?.cancel();
    retryTimer = timers.after(ms, () => void pump());
  };

  /** Fills the window. */
  const fill = async (): Promise<void> => {
    while (send !== null && room()) {
      const mine = connection;
      const last = inFlight.at(-1);
      const batch = await options.nextBatch(last === undefined ? null : [last.epoch, last.uptoSeq]);
      if (mine !== connection) continue;
      reading.reset();
      if (batch === null) return;
      if (last !== undefined && inFlight.at(-1) !== last) continue;
      if (released !== null && batch.epoch === released.epoch && batch.fromSeq <= released.uptoSeq && nowMs() - released.atMs < SETTLE_MS)
        return later(SETTLE_MS);
      const next: InFlight = { ...batch, sentMs: 0, sinceMs: nowMs(), taken: false };
      inFlight.push(next);
      transmit(next);
      if (inFlight.length === 1) armResend();
    }
  };
  const pump = async () => {
    again = true;
    if (pumping) return;
    pumping = true;
    try {
      while (again) {
        again = false;
        await fill();
      }
    } catch (error) {
      options.failed(error as Error);
      later(reading.next());
    } finally {
      pumping = false;
    }
  };

  return {
    start(sender) {
      send = sender;
      inFlight = [];
      slid = false;
      connection += 1;
      probedMs = null;
      released = null;
      resend.reset();
      void pump();
      questionTimer?.cancel();
      ask();
    },
    stop() {
      send = null;
      inFlight = [];
      connection += 1;
      resendTimer?.cancel();
      retryTimer?.cancel();
      questionTimer?.cancel();
    },
    kick(again = false) {
      if (again) {
        inFlight = [];
        slid = false;
        released = null;
        probedMs = null;
      }
      void pump();
    },
    acknowledged(ack) {
      const upto = new Map(ack.epochs.map(({ epoch, upto_seq }) => [epoch, upto_seq]));
      const done = inFlight.filter(({ epoch, uptoSeq }) => uptoSeq <= (upto.get(epoch) ?? 0));
      const last = done.at(-1);
      if (last === undefined) {
        // The ack releases nothing in flight: the cloud is back, so probe now instead of after the wait.
        const oldest = inFlight[0];
        if (oldest !== undefined && nowMs() - oldest.sentMs >= SETTLE_MS) probe();
        // Rows that the store wrote by itself, to be sent again, have waited for nobody's call.
        if (oldest === undefined) void pump();
        return;
      }
      // After sliding, the window has holes: begin again with the ledger's oldest unacknowledged row.
      inFlight = slid ? [] : inFlight.filter((batch) => !done.includes(batch));
      slid = false;
      released = { epoch: last.epoch, uptoSeq: last.uptoSeq, atMs: nowMs() };
      resend.reset();
      if (probedMs !== null) {
        for (const batch of inFlight) if (batch.sentMs < probedMs) transmit(batch);
        probedMs = null;
      }
      armResend();
      void pump();
    },
    inFlight: () => inFlight.length,
  };
}
