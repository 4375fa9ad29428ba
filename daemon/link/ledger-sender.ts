/**
 * Sends the ledger: batches in order, a bounded number under way, each released only by the cloud's own `ack`.
 *
 * A PUBACK is the broker's word and frees nothing (a killed broker loses what it has acknowledged). When no ack comes, the oldest
 * batch is sent again as a probe, ever more slowly; once an ack answers a probe, whatever else was sent before it goes out again.
 * Nothing survives a connection: the next one begins with what the ledger says is unacknowledged.
 *
 * The site's other gates read the same messages, and must hear of a guest at once even when the cloud is down. So while the cloud
 * is silent the window slides: what the broker has taken makes room for newer rows, and goes out again when the cloud speaks.
 */
import type { RowPosition } from '../../contract/ids.ts';
import type { AckMessage } from '../../contract/ledger.ts';
import { MAX_BATCHES_IN_FLIGHT } from '../../contract/limits.ts';
import type { OutboxBatch } from '../ports.ts';
import { systemTimers, type Timers } from '../timers.ts';
import { createBackoff } from './backoff.ts';
import type { Published } from './mqtt-session.ts';

/** No ack for so long: the oldest batch is sent again; doubles to RESEND_MAX_MS. */
export const RESEND_FIRST_MS = 5_000;
export const RESEND_MAX_MS = 60_000;
/** The ledger could not be read (a disk fault): asked again after this, doubling to RESEND_MAX_MS. */
export const READ_RETRY_FIRST_MS = 1_000;
/** Rows that an ack has just named and the decider still offers are not sent again within this time: its own acknowledgement is on its way. */
const SETTLE_MS = 1_000;

export interface OutboxOptions {
  readonly nextBatch: (after: RowPosition | null) => Promise<OutboxBatch | null>;
  /** A monotonic clock, ms. */
  readonly nowMs: () => number;
  /** The broker refused a batch with this MQTT reason code. It is tried again like a lost one. */
  readonly refused: (code: number) => void;
  /** The ledger could not be read. */
  readonly failed: (error: Error) => void;
  readonly resendFirstMs?: number;
  readonly resendMaxMs?: number;
  /** Default: the runtime's. */
  readonly timers?: Timers;
  /** For the jitter of waits, 0 ≤ x < 1. Default: Math.random. */
  readonly random?: () => number;
}

export interface Outbox {
  /** A connection is up: begins anew from the oldest unacknowledged row. */
  start(send: (payload: Uint8Array) => Promise<Published>): void;
  /** The connection is gone. Nothing is kept. */
  stop(): void;
  /** New rows wait. Cheap, may be called after every commit. `again`: older ones than those in flight, so the window is emptied and begins with the oldest. */
  kick(again?: boolean): void;
  /** What the cloud has; call it after the decider was given the same ack. */
  acknowledged(ack: AckMessage): void;
  inFlight(): number;
}

interface Flying {
  readonly epoch: number;
  readonly fromSeq: number;
  readonly uptoSeq: number;
  readonly payload: Uint8Array;
  /** Last sent, and first sent. */
  sentMs: number;
  readonly sinceMs: number;
  /** The broker has it: other gates had their chance to hear of it. */
  taken: boolean;
}

export function createOutbox(options: OutboxOptions): Outbox {
  const { nowMs, timers = systemTimers(), random = Math.random } = options;
  const silentMs = options.resendFirstMs ?? RESEND_FIRST_MS;
  const resend = createBackoff({ firstMs: options.resendFirstMs ?? RESEND_FIRST_MS, maxMs: options.resendMaxMs ?? RESEND_MAX_MS, random });
  const reading = createBackoff({ firstMs: READ_RETRY_FIRST_MS, maxMs: RESEND_MAX_MS, random });
  let send: ((payload: Uint8Array) => Promise<Published>) | null = null;
  let flying: Flying[] = [];
  let connection = 0;
  let pumping = false;
  let again = false;
  let probedMs: number | null = null;
  let resendTimer: { cancel(): void } | undefined;
  let retryTimer: { cancel(): void } | undefined;
  /** The window slid over rows that the cloud has not acknowledged. */
  let slid = false;
  let released: { epoch: number; uptoSeq: number; atMs: number } | null = null;

  const transmit = (batch: Flying) => {
    batch.sentMs = nowMs();
    void send?.(batch.payload).then((published) => {
      if (published.result === 'refused') options.refused(published.code);
      if (published.result !== 'sent' || batch.taken) return;
      batch.taken = true;
      if (slid) void pump();
    });
  };
  /** Is there room for one more batch? Makes some where the cloud has been silent for long. The oldest stays: it is the probe. */
  const room = (): boolean => {
    if (flying.length < MAX_BATCHES_IN_FLIGHT) return true;
    const [oldest, next, ...rest] = flying;
    if (oldest === undefined || next === undefined || nowMs() - oldest.sinceMs < silentMs) return false;
    slid = true;
    if (!next.taken) return false;
    flying = [oldest, ...rest];
    return true;
  };
  const armResend = () => {
    resendTimer?.cancel();
    if (flying.length > 0 && send !== null) resendTimer = timers.after(resend.next(), probe);
  };
  const probe = () => {
    const oldest = flying[0];
    if (oldest === undefined || send === null) return;
    probedMs = nowMs();
    transmit(oldest);
    armResend();
    void pump();
  };
  const later = (ms: number) => {
    retryTimer?.cancel();
    retryTimer = timers.after(ms, () => void pump());
  };

  /** Fills the window. True: stopped because there is nothing more, or no more room. */
  const fill = async (): Promise<void> => {
    while (send !== null && room()) {
      const mine = connection;
      const last = flying.at(-1);
      const batch = await options.nextBatch(last === undefined ? null : [last.epoch, last.uptoSeq]);
      if (mine !== connection) continue;
      reading.reset();
      if (batch === null) return;
      if (last !== undefined && flying.at(-1) !== last) continue;
      if (released !== null && batch.epoch === released.epoch && batch.fromSeq <= released.uptoSeq && nowMs() - released.atMs < SETTLE_MS)
        return later(SETTLE_MS);
      const next: Flying = { ...batch, sentMs: 0, sinceMs: nowMs(), taken: false };
      flying.push(next);
      transmit(next);
      if (flying.length === 1) armResend();
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
      flying = [];
      slid = false;
      connection += 1;
      probedMs = null;
      released = null;
      resend.reset();
      void pump();
    },
    stop() {
      send = null;
      flying = [];
      connection += 1;
      resendTimer?.cancel();
      retryTimer?.cancel();
    },
    kick(again = false) {
      if (again) {
        flying = [];
        slid = false;
        released = null;
        probedMs = null;
      }
      void pump();
    },
    acknowledged(ack) {
      const upto = new Map(ack.epochs.map(({ epoch, upto_seq }) => [epoch, upto_seq]));
      const done = flying.filter(({ epoch, uptoSeq }) => uptoSeq <= (upto.get(epoch) ?? 0));
      const last = done.at(-1);
      if (last === undefined) {
        // Not an answer to what was sent last: the cloud is back from where it was, and need not wait until its silence is over.
        const oldest = flying[0];
        if (oldest !== undefined && nowMs() - oldest.sentMs >= SETTLE_MS) probe();
        return;
      }
      // After sliding, rows between those in flight are not: begin anew from what the ledger says.
      flying = slid ? [] : flying.filter((batch) => !done.includes(batch));
      slid = false;
      released = { epoch: last.epoch, uptoSeq: last.uptoSeq, atMs: nowMs() };
      resend.reset();
      if (probedMs !== null) {
        for (const batch of flying) if (batch.sentMs < probedMs) transmit(batch);
        probedMs = null;
      }
      armResend();
      void pump();
    },
    inFlight: () => flying.length,
  };
}
