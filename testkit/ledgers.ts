/** Ledgers as gates write them, for tests: rows numbered, timed and chained. */
import { type LedgerRow, readRow } from '../cloud/reconcile/row.ts';
import { entryHash, firstPredecessor } from '../contract/hash-chain.ts';
import { SCHEMA_VERSION } from '../contract/limits.ts';
import type { TestTicket, Venue } from './database.ts';
import { sha256 } from './sha256.ts';

/** Unix ms at which every test ledger's boot began. */
export const BOOT_MS = Date.UTC(2026, 4, 1, 12);

export type TestEntry = Readonly<Record<string, unknown>> & { readonly seq: number; readonly hash: string; readonly kind: string };

export interface TestLedger {
  readonly gate: string;
  readonly epoch: number;
  readonly entries: readonly TestEntry[];
  /** Appends a row `atMs` after the boot; fields as given, over the common ones. */
  add(kind: string, atMs: number, fields: Readonly<Record<string, unknown>>): TestEntry;
  grant(ticket: TestTicket, atMs: number, fields?: Readonly<Record<string, unknown>>): TestEntry;
  /** The passage of a grant of this ledger. */
  passage(grant: TestEntry, atMs: number, outcome: string, fields?: Readonly<Record<string, unknown>>): TestEntry;
  /** All rows, or some, as reconcile takes them. */
  rows(entries?: readonly TestEntry[]): LedgerRow[];
  /** A ledger message as the gate sends it. */
  message(entries?: readonly TestEntry[]): { schema: number; gate: string; epoch: number; entries: readonly TestEntry[] };
  /** A new boot from here on: rows after this carry it. null offset: no round trip has been made. */
  reboot(bootId: string, offsetMs: number | null, boundMs?: number): void;
}

export function testLedger(venue: Venue, gateIndex: number, epoch = 1): TestLedger {
  const gate = venue.gates[gateIndex] as string;
  const entries: TestEntry[] = [];
  let previous = firstPredecessor(sha256, gate, epoch);
  let boot: { boot_id: string; clock_offset_ms?: number; clock_bound_ms?: number } = {
    boot_id: `boot-${gateIndex}-${epoch}`,
    clock_offset_ms: BOOT_MS,
    clock_bound_ms: 20,
  };
  const ledger: TestLedger = {
    gate,
    epoch,
    entries,
    add(kind, atMs, fields) {
      const row: Record<string, unknown> = { seq: entries.length + 1, kind, ts: new Date(BOOT_MS + atMs).toISOString(), boottime_ms: atMs, ...boot, ...fields };
      previous = entryHash(sha256, previous, row);
      const entry = { ...row, hash: previous } as unknown as TestEntry;
      entries.push(entry);
      return entry;
    },
    grant: (ticket, atMs, fields = {}) =>
      ledger.add('grant', atMs, {
        event_id: venue.eventId,
        ticket_id: ticket.ticketId,
        ticket_ref: ticket.ticketRef,
        direction: 'in',
        type: 'first_entry',
        units: 1,
        medium: 'opaque',
        manifest_version: 1,
        online: true,
        latency_us: 500,
        seen: {},
        ...fields,
      }),
    passage: (grant, atMs, outcome, fields = {}) =>
      ledger.add('passage', atMs, {
        of: [epoch, grant.seq, grant.hash],
        event_id: grant['event_id'],
        ticket_id: grant['ticket_id'],
        ticket_ref: grant['ticket_ref'],
        direction: grant['direction'],
        unit: 1,
        outcome,
        ...fields,
      }),
    rows: (some = entries) => some.map((entry) => readRow(gate, epoch, entry) as LedgerRow),
    message: (some = entries) => ({ schema: SCHEMA_VERSION, gate, epoch, entries: some }),
    reboot(bootId, offsetMs, boundMs = 20) {
      boot = offsetMs === null ? { boot_id: bootId } : { boot_id: bootId, clock_offset_ms: offsetMs, clock_bound_ms: boundMs };
    },
  };
  return ledger;
}
