/**
 * Defines the ports of the gate's loop: Reader, Board, Decider, Uplink, Clock. Adapters implement these;
 * the loop and the tests know nothing else. Constructors and factories do nothing: work begins with
 * `open` and ends with `close`, which returns when everything is released.
 */
import type { Direction, LedgerVector, Medium, RowPosition } from '../contract/ids.ts';
import type { AckMessage, Mode, PassageOutcome } from '../contract/ledger.ts';
import type { AlertId, EventMessage, HealthMessage, InfoMessage, Severity, StatsMessage } from '../contract/messages.ts';
import type { Command, Request, ResponseMessage } from '../contract/requests.ts';
import type { Verdict } from '../rules/facts.ts';

/** Returned instead of thrown where a caller can act on it; logged once, where it is handled. */
export interface Fault {
  /** What was tried, such as "open /dev/stile-reader-in". */
  readonly operation: string;
  readonly cause: string;
  /** How a person fixes it. */
  readonly hint: string;
  readonly healsItself: boolean;
}

// ---------------------------------------------------------------- time

/** Two clocks behind one interface; a simulated one stands beside the real one (clock.ts). */
export interface Clock {
  /** Returns CLOCK_BOOTTIME, ms since boot, fractions allowed: for durations, deadlines and the ledger. */
  boottimeMs(): number;
  /** Returns the wall clock, Unix ms, not below the floor (build time, last row whose time was trusted, certificate's notBefore). */
  wallMs(): number;
  readonly bootId: string;
  /** Returns the best known estimate: cloud time = boottime + offsetMs ± boundMs; null before the first round trip. */
  offset(): { readonly offsetMs: number; readonly boundMs: number } | null;
  /** Tells whether the wall time is good enough to judge validity windows by. */
  trusted(): boolean;
  /** Takes one round trip: asked and answered in boottime, the cloud's clock between them in Unix ms. The best bound of a boot is kept. */
  observe(sample: { readonly askedMs: number; readonly answeredMs: number; readonly cloudReceivedMs: number; readonly cloudAnsweredMs: number }): void;
}

// ---------------------------------------------------------------- reader

export type ReaderEvent =
  /** One frame, terminator removed. The bytes are a guest's code: never logged. */
  | {
      readonly kind: 'frame';
      readonly reader: string;
      readonly direction: Direction;
      readonly bytes: Uint8Array;
      readonly atMs: number /** When the code's last byte arrived, boottime ms. */;
      readonly lastByteMs: number;
    }
  /** Invalid frame: too long, or broken framing. Counted; the reader resynchronises. */
  | { readonly kind: 'garbled'; readonly reader: string; readonly direction: Direction; readonly why: 'too_long' | 'framing'; readonly atMs: number }
  /** The first bytes of what may become a frame: at most once a frame, and not where its end comes along with them. */
  | { readonly kind: 'coming'; readonly reader: string; readonly direction: Direction }
  /** A chunk as it came, before it is framed: for counters and for a technician who watches. Never logged. */
  | { readonly kind: 'bytes'; readonly reader: string; readonly direction: Direction; readonly bytes: Uint8Array; readonly atMs: number }
  | { readonly kind: 'up'; readonly reader: string }
  | { readonly kind: 'down'; readonly reader: string; readonly fault: Fault };

export interface Reader {
  readonly name: string;
  readonly direction: Direction;
  /** Begins; never fails: a port that is not there is a `down` event and is tried again with backoff. */
  open(listener: (event: ReaderEvent) => void): void;
  close(): Promise<void>;
  ok(): boolean;
  /** Returns the names of other programs that hold the port, such as `agetty (pid 411)`, as far as the gate may see them. */
  holders?(): readonly string[];
}

// ---------------------------------------------------------------- board

/** Outputs of a lane. A board without one of them ignores it. */
export const OUTPUT_NAMES = ['release_in', 'release_out', 'stop', 'green_in', 'red_in', 'amber_in', 'green_out', 'red_out', 'amber_out', 'buzzer'] as const;
export type OutputName = (typeof OUTPUT_NAMES)[number];
/** Inputs of a lane. `fire` true: the loop is open (alarm). */
export const INPUT_NAMES = ['passage_in', 'passage_out', 'beam_a', 'beam_b', 'button', 'fire', 'tamper', 'key_free', 'key_closed'] as const;
export type InputName = (typeof INPUT_NAMES)[number];

/** Logical levels: true = active (released, lit, passage under way, alarm), whatever the wire says. */
export interface BoardEvent {
  readonly kind: 'input';
  readonly input: InputName;
  readonly active: boolean;
  /** Boottime ms of the edge, as near to the kernel's as the driver knows. */
  readonly atMs: number;
}

export interface Board {
  /**
   * Claims every configured line, puts outputs into their defined state, reads inputs as levels, then reports edges, and
   * levels again every 250 ms. Throws an Error with `fault: Fault` where a line cannot be had within its bound.
   */
  open(listener: (event: BoardEvent) => void, failed: (fault: Fault) => void): Promise<void>;
  /** Tells whether a line is configured. */
  has(line: OutputName | InputName): boolean;
  /** Synchronous and immediate. A failed write is reported to `failed` and thrown. */
  write(output: OutputName, active: boolean): void;
  /** Returns the level now, true = active. */
  read(input: InputName): boolean;
  /** Puts every output into its defined state and gives the lines back. `open` stays on releases while fire is asserted or latched. */
  close(options: { readonly releaseOpen: boolean }): Promise<void>;
  ok(): boolean;
}

// ---------------------------------------------------------------- decider (store and rules, in a worker)

/** A code before the reader. */
export interface Presentation {
  readonly bytes: Uint8Array;
  readonly direction: Direction;
  readonly reader: string;
  readonly mode: Mode;
  readonly atMs: number;
  readonly lastByteMs: number;
  readonly online: boolean;
  /** Outwards: the lane has opened for it already. What would be a refusal is an `exit_unmatched`. */
  readonly opened?: true;
}

/** A committed decision. `row`: where it stands in the ledger. */
export interface Decision {
  readonly verdict: Verdict;
  readonly row: RowPosition;
  readonly eventId: string | null;
  readonly ticketId: string | null;
  readonly ticketRef: string | null;
  readonly medium: Medium;
  /** Of a re-entry: when the last entry was, as the venue's clocks show it. */
  readonly lastEntry?: string;
  /** µs each stage took, for stats and bench. */
  readonly stages: { readonly lookup_us: number; readonly decision_us: number; readonly commit_us: number };
}

/** An entry of the ledger that is no decision. The decider adds key, times and hash. */
export type Note =
  | { readonly kind: 'passage'; readonly of: RowPosition | null; readonly direction: Direction; readonly unit: number | null; readonly outcome: PassageOutcome }
  | { readonly kind: 'refusal'; readonly reason: 'unreadable' | 'busy' | 'gate_locked' | 'see_staff' | 'error'; readonly direction: Direction }
  | { readonly kind: 'exit_unmatched'; readonly reason: 'unreadable' | 'error'; readonly direction: Direction }
  | {
      readonly kind: 'override';
      readonly actor: string;
      readonly action: string;
      readonly reason: string;
      readonly direction?: Direction;
      readonly units?: number;
      readonly until?: string;
      readonly transaction?: string;
    }
  | {
      readonly kind: 'mode';
      readonly direction: Direction;
      readonly from: Mode;
      readonly to: Mode;
      readonly actor: string;
      readonly reason: string;
      readonly until?: string;
    }
  | { readonly kind: 'fault' | 'alarm' | 'clock'; readonly what: string; readonly detail: string };

export interface OutboxBatch {
  readonly epoch: number;
  readonly fromSeq: number;
  readonly uptoSeq: number /** The message, ready to send: LedgerMessage JSON, at most 256 KiB. */;
  readonly payload: Uint8Array;
}

/** The cloud's verdict on one of this gate's grants: it was beyond the ticket's right (two gates that could not hear of each other), or not after all. */
export interface GrantConflict {
  /** The cloud's row that says so: news is what is above the last. */
  readonly verdictRow: RowPosition;
  /** The grant. */
  readonly row: RowPosition;
  readonly verdict: 'excess' | 'withdrawn';
  /** A reason that would have refused it. */
  readonly cause: string;
  readonly eventId: string | null;
  readonly ticketId: string | null;
  readonly ticketRef: string | null;
  readonly direction: Direction | null;
  /** The grant that used the right up. */
  readonly winner: readonly [gate: string, epoch: number, seq: number] | null;
  /** For people. */
  readonly words: string;
}

export interface DeciderStatus {
  readonly epoch: number;
  readonly lastSeq: number;
  readonly backlog: number;
  readonly backlogOldestMs: number | null;
  readonly usageComplete: boolean;
  readonly manifests: readonly {
    readonly eventId: string;
    readonly version: number;
    readonly overlayVersion: number;
    readonly generatedAtMs: number;
    readonly expiresAtMs: number;
    readonly tickets: number;
  }[];
  /** Of the last mode row of each direction. `from`: the mode before it, so that a reset after a restart in emergency can go back to it. */
  readonly modes: Readonly<Record<Direction, { readonly mode: Mode; readonly untilMs: number | null; readonly from?: Mode }>>;
  readonly fireLatched: boolean;
  readonly totals: { readonly admissions: number; readonly refusals: number; readonly passages: number };
  readonly diskFreeBytes: number;
  /** Grants beyond their right: how many stand, and the newest words (withdrawn ones too), the newest last, at most 20. */
  readonly conflicts?: { readonly standing: number; readonly newest: readonly GrantConflict[] };
  /** Wall time of the newest row that was written while the clock was trusted, Unix ms: part of the clock's floor. null: none is known. */
  readonly lastRowMs?: number | null;
  /** Rows of the backlog that the cloud had acknowledged and that are sent again. */
  readonly resentRows?: number;
  /** The store went back in time (a restored card, a copy put back): rows written again under the present epoch, and still to be. null: not of late. */
  readonly wentBack?: { readonly rows: number; readonly left: number } | null;
  /** The store went back in time too often: another device may write under this gate's name. No further epoch begins, and nothing is sent. */
  readonly clone?: boolean;
}

/** Result of installing or changing a manifest: never throws for bad input. */
export type ManifestResult =
  | { readonly ok: true; readonly version: number }
  | { readonly ok: false; readonly why: 'signature' | 'checksum' | 'not_newer' | 'gap' | 'malformed' | 'unknown_key' | 'io'; readonly message: string };

/**
 * Store and rules, apart from the loop: every call is answered from the worker, in order, except that
 * manifest installation never delays a decision. A call rejects with an Error carrying `fault` when the
 * disk refuses (full, busy, denied, corrupt); nothing is then recorded and nothing may be opened.
 */
export interface Decider {
  open(): Promise<DeciderStatus>;
  close(): Promise<void>;
  /** Recognises, decides, commits (synchronous=FULL), then answers. */
  decide(presentation: Presentation): Promise<Decision>;
  /**
   * Wakes the decider for a code that is coming, so that it has at hand what a decision needs. Decides and writes nothing, never throws, and costs a `decide`
   * no wait of note.
   */
  prepare?(): void;
  /**
   * Gives up waiting on an earlier `decide` (the disk stalled and the guest was told no): if it is granted after all, the store
   * commits its `returned` before its next decision. The promise of that decide still settles, and must be ignored.
   */
  abandon(presentation: Presentation): void;
  record(note: Note): Promise<RowPosition>;
  /** Stores the fire latch on disk, outside the ledger as well: it must survive a restart. */
  setFireLatch(latched: boolean): Promise<void>;
  /** Remembers a transaction durably until `expiresAtMs`. Returns true once; false: replayed. */
  rememberTransaction(transaction: string, expiresAtMs: number): Promise<boolean>;
  /** Returns the next unacknowledged rows after `after`, of the oldest epoch that has any; null: nothing waits. */
  nextBatch(after: RowPosition | null): Promise<OutboxBatch | null>;
  /** A ledger message without rows, which the cloud answers with what it holds; null: the cloud does not know such messages. */
  question?(): Promise<Uint8Array | null>;
  /**
   * Releases rows that are committed in Postgres, and no others. Answers the new backlog. `ahead`: the ack names rows that this ledger lacks (restored SD
   * card): a new epoch was started.
   */
  acknowledge(
    ack: AckMessage,
  ): Promise<{ readonly backlog: number; readonly ahead: boolean /** Rows are to be sent again: `kick` with `again`. */; readonly again?: true }>;
  /**
   * Orders rows to be sent again that were acknowledged: from one on, or (null) those that the latest ack leaves out. Durable when it answers with
   * everything that will be sent, what was never acknowledged included: [epoch, from, to].
   */
  resend(from: RowPosition | null): Promise<readonly (readonly [epoch: number, from: number, to: number])[]>;
  /** Takes a peer's or the cloud's LedgerMessage. `gap`: rows are missing before it; fetch with `vector`. */
  applyPeer(message: PeerMessage): Promise<{ readonly applied: number; readonly gap: boolean }>;
  /** Returns the last known row of each ledger of the site; a rebuilt gate's own last rows count as not known until they were fetched. */
  vector(): Promise<LedgerVector>;
  /**
   * The cloud's copy of the site's ledger was read to its end (`more: false`) from `vector()` on: lost usage is whole again, and a hole that
   * the cloud has as well no longer counts as a gap.
   */
  caughtUp(): Promise<void>;
  /** Builds and checks a manifest beside the old one from a downloaded file, then switches in one step. */
  installManifest(file: string, wanted: unknown): Promise<ManifestResult>;
  applyOverlay(payload: Uint8Array): Promise<ManifestResult>;
  /** Takes the events that this gate shall hold; others are dropped. Answers which of them need fetching, and from which version. */
  want(payload: Uint8Array): Promise<readonly { readonly eventId: string; readonly since: number | null; readonly wanted: unknown }[]>;
  status(): Promise<DeciderStatus>;
  /**
   * For reading by people (`stile-gate ledger`; `conflict`: what the cloud found out about a grant): own rows after `after` (null: from the oldest kept), in
   * order over all kept epochs, as stored; at most `limit`, and 500.
   */
  rows(
    after: RowPosition | null,
    limit: number,
  ): Promise<
    readonly {
      readonly epoch: number;
      readonly entry: Readonly<Record<string, unknown>> & { readonly seq: number; readonly kind: string; readonly hash: string };
      readonly conflict?: string;
    }[]
  >;
}

// ---------------------------------------------------------------- uplink

/**
 * A LedgerMessage of another ledger of the site. `ledger`: whose it is, by the topic that it came on or by the cloud's answer; the payload must say the same.
 */
export interface PeerMessage {
  readonly ledger: string;
  readonly payload: Uint8Array;
}

export type UplinkEvent =
  | { readonly kind: 'online' }
  | { readonly kind: 'offline'; readonly fault: Fault }
  | { readonly kind: 'ack'; readonly ack: AckMessage }
  | {
      readonly kind: 'request';
      readonly request: Request;
      readonly command: Command /** Answers on `response/<command>`. */;
      readonly respond: (response: Omit<ResponseMessage, 'schema' | 'transaction' | 'duration_ms'>) => void;
    }
  | ({ readonly kind: 'peer' } & PeerMessage)
  | { readonly kind: 'want' | 'overlay'; readonly payload: Uint8Array };

/**
 * MQTT. Never blocks the loop; publishes that must not be lost are the ledger's, and those only leave the
 * ledger when the cloud's `ack` names them. The uplink itself checks requests (retained, late,
 * replayed through `remember`, malformed) and answers the bad ones.
 */
export interface Uplink {
  /** A promise that the listener returns holds back the next `peer` (a bounded queue stands behind it) and nothing else. */
  open(listener: (event: UplinkEvent) => void | Promise<void>): void;
  /** Publishes state offline (reason given), waits at most its bound, disconnects. */
  close(reason: string): Promise<void>;
  online(): boolean;
  /** Sends the rows that wait, at most 8 batches in flight. `again`: rows before those in flight wait, so the window is emptied and begins with the oldest. */
  kick(again?: boolean): void;
  health(health: Omit<HealthMessage, 'schema'>): void;
  stats(stats: Omit<StatsMessage, 'schema'>): void;
  info(info: Omit<InfoMessage, 'schema'>): void;
  event(event: Omit<EventMessage, 'schema'>): void;
  raise(alert: AlertId, severity: Severity, message: string): void;
  clear(alert: AlertId): void;
}

/** Fetches manifests and the site's ledger over HTTP; the link implements it. */
export interface GateSync {
  /** `manifest/want` as it came. */
  want(payload: Uint8Array): Promise<void>;
  /** A signed overlay as it came. */
  overlay(payload: Uint8Array): Promise<void>;
  /** Fetches the site's ledger: a peer's rows have a gap. */
  gap(): Promise<void>;
  /** Fetches what is wanted now; its result goes into the answer. */
  refresh(): Promise<unknown>;
  /** Returns the cause for which the last fetch failed, with its address; null: no failure is known. */
  problem?(): string | null;
  /** Calls `listener` when `problem`, the decider's tickets or the peers' usage change. Without it the gate finds out within STATUS_MS. */
  changed?(listener: () => void): void;
}
