/** What others see of the simulated cloud, and how they read its rows. */
import type { LedgerVector } from '../../contract/ids.ts';
import type { ManifestTicket, WantedManifest } from '../../contract/manifest.ts';
import type { AccountTicket, Row } from './counts.ts';
import { SITE } from './fixture.ts';

export const CLOUD_LEDGER = `${SITE}/cloud`;

export interface StoredRow extends Row {
  readonly hash: string;
}
/** Messages that one transaction took, as they came. */
export type Taken = readonly { readonly gate: string; readonly payload: Uint8Array }[];

export interface LedgerMessage {
  readonly gate: string;
  readonly epoch: number;
  readonly entries: readonly (Readonly<Record<string, unknown>> & { readonly seq: number; readonly hash: string })[];
}
const messages = new WeakMap<Uint8Array, LedgerMessage>();
/** A batch of a ledger, read once for all who look at it: who sent it, the cloud, and who heard of it. */
export function messageOf(payload: Uint8Array): LedgerMessage {
  const message = messages.get(payload) ?? (JSON.parse(Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength).toString('utf8')) as LedgerMessage);
  messages.set(payload, message);
  return message;
}

export interface Cloud {
  readonly gates: readonly string[];
  /** Every row, by ledger and epoch. */
  readonly ledgers: ReadonlyMap<string, ReadonlyMap<number, ReadonlyMap<number, StoredRow>>>;
  rows(): StoredRow[];
  readonly taken: readonly Taken[];
  /** Rows that did not follow, by hash. */
  readonly forks: ReadonlyMap<string, StoredRow>;
  /** The row that counts for each identity. */
  counted(): ReadonlyMap<string, StoredRow>;
  /** The rows that count, each under its original's key. */
  originals(): Row[];
  /** Puts a copy of the database aside. */
  dump(): void;
  /** Puts the copy back; `renewed`: restored by its own command, else found out by the retained acknowledgements. Returns false where there is none. */
  restore(renewed: boolean): boolean;
  /** How often a copy was put back. */
  readonly restored: number;
  /** The database's life, as its acknowledgements name it. */
  readonly since: string;
  readonly quarantined: number;
  has(gate: string, epoch: number, seq: number): string | null;
  upto(gate: string, epoch: number): number;
  start(): Promise<void>;
  crash(forMs: number): void;
  readonly up: boolean;
  // ---- HTTP
  ledgerAfter(vector: LedgerVector): readonly StoredRow[];
  manifestFile(wanted: WantedManifest): string;
  overlaysAfter(version: number): readonly Uint8Array[];
  // ---- rights
  change(ticket: number, change: 'revoke' | 'block' | 'restore' | 'vip' | 'sell'): void;
  buildManifest(): void;
  settle(pick: number, outcome: 'passed' | 'returned'): void;
  readonly version: number;
  /** Returns what a ticket may by a version; null: not sold yet. */
  rightAt(ticketId: string, version: number): ManifestTicket | null;
  accountTicket(ticketId: string): AccountTicket | null;
  /** Overlays that were published, for a late or forged copy. */
  published(): readonly Uint8Array[];
  /** Manifests that were built in this world alone. */
  ownFiles(): readonly string[];
}

/** Unix ms of a row as its writer corrected it; its wall clock where it could not. */
export function atOf(entry: Readonly<Record<string, unknown>>): number {
  const offset = entry['clock_offset_ms'];
  return typeof offset === 'number' ? Math.round(Number(entry['boottime_ms']) + offset) : Date.parse(String(entry['ts']));
}
