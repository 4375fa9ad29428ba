/** The interface of the decider's engine: what the worker calls, in order. */
import type { LedgerVector, RowPosition } from '../../contract/ids.ts';
import type { AckMessage } from '../../contract/ledger.ts';
import type { DeciderStatus, Decision, ManifestResult, Note, OutboxBatch, PeerMessage, Presentation } from '../ports.ts';
import type { Stamp, StoredEntry } from '../store/ledger.ts';
import type { Manifests } from '../store/manifest-store.ts';
import type { StoreError } from '../store/sqlite.ts';
import type { CloudTicket, Resolved } from './resolve-ticket.ts';

/** The code is not known here: the cloud is asked before it is decided. */
export interface LookupNeeded {
  readonly ask: Resolved['refs'];
}

/** Returns the time since the stamp was taken, by the worker's clock, µs. */
export type ElapsedUs = () => number;

export interface DeciderEngine {
  status(stamp: Stamp): DeciderStatus;
  /**
   * `answer`: undefined: never ask; `may_ask`: a LookupNeeded may come back and nothing was decided; else the cloud's answer (empty: it did not know, or did
   * not answer).
   */
  decide(id: number, presentation: Presentation, stamp: Stamp, elapsedUs: ElapsedUs, answer?: 'may_ask' | readonly CloudTicket[]): Decision | LookupNeeded;
  abandon(id: number, stamp: Stamp): void;
  /**
   * A code is coming: everything that its decision will do is done once for a code that nobody has, without the commit.
   * What lies cold after a pause is at hand then. Nothing changes, nothing is written; a fault is left to the decision that meets it.
   */
  prepare(stamp: Stamp): void;
  /** Keeps the cloud's answer that came after its decision, for the guest's next try. */
  remember(answers: readonly CloudTicket[], stamp: Stamp): void;
  record(note: Note, stamp: Stamp): RowPosition;
  setFireLatch(latched: boolean): void;
  rememberTransaction(transaction: string, expiresAtMs: number, stamp: Stamp): boolean;
  nextBatch(after: RowPosition | null): OutboxBatch | null;
  question(): Uint8Array | null;
  rows(after: RowPosition | null, limit: number): readonly { readonly epoch: number; readonly entry: StoredEntry; readonly conflict?: string }[];
  acknowledge(ack: AckMessage, stamp: Stamp): { readonly backlog: number; readonly ahead: boolean };
  resend(from: RowPosition | null): readonly (readonly [epoch: number, from: number, to: number])[];
  applyPeer(message: PeerMessage): { readonly applied: number; readonly gap: boolean };
  vector(): LedgerVector;
  caughtUp(): void;
  installManifest(file: string, wanted: unknown, stamp: Stamp): Promise<ManifestResult>;
  applyOverlay(payload: Uint8Array, stamp: Stamp): ManifestResult;
  want(payload: Uint8Array, stamp: Stamp): ReturnType<Manifests['want']>;
  /** Quarantines a damaged file after a call that failed with `damaged`, and goes on without it. Throws StoreError where even that fails; then try again. */
  recover(error: StoreError, stamp: Stamp): Promise<void>;
  /** Takes one bounded step of what can wait; false: nothing is left to do. `quiet`: nobody is at the lane, so that a step may sync. Throws StoreError. */
  idle(stamp: Stamp, quiet: boolean): boolean;
  /** Takes one bounded step of preallocating the ledger's log, which no guest shall wait for; false: nothing is left to do. It syncs. Throws StoreError. */
  preallocateWal(): boolean;
  close(): void;
}
