/** The messages between the loop's thread and the decider's worker. */

import type { RowPosition } from '../../contract/ids.ts';
import type { AckMessage } from '../../contract/ledger.ts';
import type { PublicKey } from '../../contract/manifest.ts';
import type { Fault, Note, PeerMessage, Presentation } from '../ports.ts';
import type { Stamp } from '../store/ledger.ts';
import type { CloudTicket } from './resolve-ticket.ts';

/** `workerData` of the decider's worker: whose store it keeps comes with `open`, so that it can be started before that is known. */
export interface WorkerData {
  readonly role: 'decider';
}

/** The gate that a store belongs to, and the folder that holds it. */
export interface StoreIdentity {
  readonly path: string;
  readonly gate: string;
  readonly verifyKeys: readonly PublicKey[];
  /** Names the program that runs, exactly; null: a checkout, whose code may change without a name. */
  readonly release: string | null;
}

/** One call with its arguments. Answers are what the method of DeciderEngine returns. */
export type WorkerCall =
  | { readonly name: 'open'; readonly store: StoreIdentity }
  | { readonly name: 'close' | 'status' | 'vector' | 'question' | 'caughtUp' | 'prepare' }
  | { readonly name: 'decide'; readonly presentation: Presentation; readonly answer?: 'may_ask' | readonly CloudTicket[] | undefined }
  /** `decision`: id of the call that is given up. */
  | { readonly name: 'abandon'; readonly decision: number }
  | { readonly name: 'remember'; readonly answers: readonly CloudTicket[] }
  | { readonly name: 'record'; readonly note: Note }
  | { readonly name: 'setFireLatch'; readonly latched: boolean }
  | { readonly name: 'rememberTransaction'; readonly transaction: string; readonly expiresAtMs: number }
  | { readonly name: 'nextBatch'; readonly after: RowPosition | null }
  | { readonly name: 'rows'; readonly after: RowPosition | null; readonly limit: number }
  | { readonly name: 'acknowledge'; readonly ack: AckMessage }
  | { readonly name: 'resend'; readonly from: RowPosition | null }
  | ({ readonly name: 'applyPeer' } & PeerMessage)
  | { readonly name: 'applyOverlay' | 'want'; readonly payload: Uint8Array }
  | { readonly name: 'installManifest'; readonly file: string; readonly wanted: unknown };

/** `sentUs`: CLOCK_MONOTONIC when the stamp was taken, which all threads of a process share. */
export interface WorkerRequest {
  readonly id: number;
  readonly stamp: Stamp;
  readonly sentUs: number;
  readonly call: WorkerCall;
}

export type WorkerReply =
  | { readonly id: number; readonly ok: true; readonly value: unknown }
  | { readonly id: number; readonly ok: false; readonly error: { readonly message: string; readonly code: string; readonly fault: Fault } }
  | { readonly notice: string; readonly detail: string };

export const monotonicUs = (): number => Number(process.hrtime.bigint() / 1_000n);
