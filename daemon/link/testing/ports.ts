/** Implements the ports for tests of link: a clock, a ledger in memory, a cloud, a wait. */
import type { RowPosition } from '../../../contract/ids.ts';
import { type AckMessage, LedgerMessage } from '../../../contract/ledger.ts';
import { MAX_LEDGER_ENTRIES, SCHEMA_VERSION } from '../../../contract/limits.ts';
import type { InfoMessage } from '../../../contract/messages.ts';
import type { Log, LogLevel } from '../../log/log.ts';
import type { Clock, OutboxBatch } from '../../ports.ts';

/** Returns the machine's own clocks; trusted unless `trust` is false. */
export function testClock(): Clock & { trust: boolean; readonly samples: unknown[] } {
  let best: { offsetMs: number; boundMs: number } | null = null;
  return {
    trust: true,
    samples: [],
    bootId: 'test-boot',
    boottimeMs: () => performance.now(),
    wallMs: () => Date.now(),
    offset: () => best,
    trusted() {
      return this.trust;
    },
    observe(sample) {
      this.samples.push(sample);
      const boundMs = (sample.answeredMs - sample.askedMs - (sample.cloudAnsweredMs - sample.cloudReceivedMs)) / 2;
      if (best === null || boundMs < best.boundMs)
        best = { boundMs, offsetMs: (sample.cloudReceivedMs + sample.cloudAnsweredMs - sample.askedMs - sample.answeredMs) / 2 };
    },
  };
}

/** Returns a ledger of one epoch in memory, with its acknowledgements and transactions. */
export function testDecider(gate: string, epoch = 1_700_000_000) {
  let rows = 0;
  let acknowledged = 0;
  const transactions = new Map<string, number>();
  const decider = {
    epoch,
    transactions,
    write(count: number) {
      rows += count;
    },
    backlog: () => rows - acknowledged,
    acknowledge(ack: AckMessage) {
      for (const entry of ack.epochs) if (entry.epoch === epoch) acknowledged = Math.max(acknowledged, Math.min(rows, entry.upto_seq));
    },
    async nextBatch(after: RowPosition | null): Promise<OutboxBatch | null> {
      const fromSeq = Math.max(acknowledged, after === null ? 0 : after[1]) + 1;
      if (fromSeq > rows) return null;
      const uptoSeq = Math.min(rows, fromSeq + MAX_LEDGER_ENTRIES - 1);
      const entries = Array.from({ length: uptoSeq - fromSeq + 1 }, (_, i) => ({
        seq: fromSeq + i,
        kind: 'alarm',
        hash: (fromSeq + i).toString(16).padStart(64, '0'),
      }));
      return { epoch, fromSeq, uptoSeq, payload: Buffer.from(JSON.stringify({ schema: SCHEMA_VERSION, gate, epoch, entries })) };
    },
    async rememberTransaction(transaction: string, expiresAtMs: number): Promise<boolean> {
      if (transactions.has(transaction)) return false;
      transactions.set(transaction, expiresAtMs);
      return true;
    },
  };
  return decider;
}

/** Returns a cloud that counts received rows and builds the ack. */
export function testCloud(epoch: number) {
  const rows = new Map<number, number>();
  return {
    rows,
    take(payload: Uint8Array) {
      const message = LedgerMessage.parse(JSON.parse(Buffer.from(payload).toString()));
      for (const { seq } of message.entries) rows.set(seq, (rows.get(seq) ?? 0) + 1);
    },
    ack(): AckMessage {
      let upto = 0;
      while (rows.has(upto + 1)) upto += 1;
      return { schema: SCHEMA_VERSION, epochs: [{ epoch, upto_seq: upto, missing: [] }], cloud_time: new Date().toISOString() };
    },
  };
}

export const TEST_INFO: Omit<InfoMessage, 'schema'> = {
  version: '0.1.0',
  commit: 'test',
  runtime: process.version,
  kernel: 'test',
  image: null,
  hardware_model: null,
  hardware_serial: null,
  boot_id: 'test-boot',
  booted_at: '2026-01-01T00:00:00.000Z',
  config_sha256: 'test',
  readers: [],
  cert_expires_at: null,
};

/** Waits until the condition holds; fails after `timeoutMs`. */
export async function until(what: string, so: () => boolean, timeoutMs = 45_000): Promise<void> {
  const end = Date.now() + timeoutMs;
  while (!so()) {
    if (Date.now() > end) throw new Error(`waited ${timeoutMs} ms in vain for: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** Returns a log that hands every line to `write`. */
export function testLog(write: (level: LogLevel, message: string, fields?: Readonly<Record<string, unknown>>) => void): Log {
  const at = (level: LogLevel) => (message: string, fields?: Readonly<Record<string, unknown>>) => write(level, message, fields);
  return { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') };
}
