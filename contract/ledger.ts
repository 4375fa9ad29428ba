/**
 * Defines the ledger: rows that gates (and the cloud) write, and their acknowledgements.
 *
 * A row is (gate, epoch, seq); within an epoch seq runs 1..n without gap, and each row carries the hash of the one before (hash-chain.ts). Rows
 * never change. A row of an unknown kind, or with unknown fields, is stored as it came: only its key and hash must be readable.
 */
import { z } from 'zod';
import { ActorId, Direction, Epoch, EventId, ExternalId, GateName, LedgerName, Medium, Seq, Sha256Hex, TicketId, TicketRef, Timestamp } from './ids.ts';
import { MAX_LEDGER_ENTRIES, MAX_MISSING_RANGES, MAX_TEXT_CHARS, MAX_UNITS, MAX_VECTOR_EPOCHS, SCHEMA_VERSION } from './limits.ts';
import { Reason } from './reasons.ts';
import { Again, AnyVector, LedgerHeads, LedgerReference, OwnReference } from './references.ts';

const Text = z.string().max(MAX_TEXT_CHARS);

/** The fields that a row needs for its place in the sequence. */
export const EntryKey = z.looseObject({ seq: Seq, kind: z.string().min(1).max(32), hash: Sha256Hex });

const common = {
  seq: Seq,
  /** Wall time of the writer: a hint, never an order. */
  ts: Timestamp,
  boot_id: z.string().min(1).max(64),
  /** CLOCK_BOOTTIME of the writer, in milliseconds since boot. */
  boottime_ms: z.number().min(0),
  /** cloud time = boottime_ms + clock_offset_ms ± clock_bound_ms, where a round trip has measured it. */
  clock_offset_ms: z.number().optional(),
  clock_bound_ms: z.number().min(0).optional(),
  /**
   * The original of a row that its ledger sends once more, under another key and otherwise unchanged: after a store went back in time, or where an
   * operator admits a quarantined row. Of two rows with one original exactly one counts (identity.ts).
   */
  again: Again.optional(),
  hash: Sha256Hex,
};
/** `area`: part of the venue that counts by itself; absent: the whole. `pass`: the pass of n visits that this one belongs to. */
const visit = { area: z.string().max(64).optional(), pass: ExternalId.optional() };
const ticket = { event_id: EventId, ticket_id: TicketId, ticket_ref: TicketRef };
const ticketWhereKnown = { event_id: EventId.optional(), ticket_id: TicketId.optional(), ticket_ref: TicketRef.optional() };

export const GRANT_TYPES = ['first_entry', 'reentry', 'exit'] as const;
export const GrantType = z.enum(GRANT_TYPES);
export type GrantType = z.infer<typeof GrantType>;

/**
 * Conditions that failed but were admitted by policy: `manifest_stale`, `clock_untrusted`, `usage_lost`, `passback_soft`, `capacity`, `unpaid`,
 * `unapproved`, `signature_only`.
 */
export const GrantFlag = z.string().min(1).max(32);

export const GrantEntry = z.looseObject({
  ...common,
  kind: z.literal('grant'),
  ...ticket,
  ...visit,
  direction: Direction,
  type: GrantType,
  units: z.int().min(1).max(MAX_UNITS),
  medium: Medium,
  manifest_version: z.int().min(0),
  online: z.boolean(),
  latency_us: z.int().min(0),
  /** Changes since this gate's previous grant: the prefix of each other ledger that it had applied. */
  seen: AnyVector,
  flags: z.array(GrantFlag).max(16).optional(),
  /** The claim that it settles: what a scanner reported before its ticket was known. The same ledger; the claim's time. */
  of: OwnReference.optional(),
});
export const RefusalEntry = z.looseObject({
  ...common,
  kind: z.literal('refusal'),
  reason: Reason,
  explanation: Text,
  ...ticketWhereKnown,
  ...visit,
  direction: Direction.optional(),
  /** The facts of the explanation, for showing it in another language. */
  facts: z.record(z.string().max(32), z.union([z.string().max(128), z.number()])).optional(),
  valid_again_at: Timestamp.optional(),
  /** The claim that it settles, as in a grant. */
  of: OwnReference.optional(),
});
/**
 * What a scanner reported of a ticket that the cloud does not know (yet). Changes no usage. When the ticket appears, a grant or a refusal with
 * `of` this row follows in the same ledger, at the claim's time.
 */
export const ClaimEntry = z.looseObject({
  ...common,
  kind: z.literal('claim'),
  /** The scanner; absent: a door in SQL that no device stands at. */
  device: GateName.optional(),
  result: z.enum(['ALLOW', 'DENY']),
  ...ticketWhereKnown,
  direction: Direction.optional(),
  /** Guests; absent: as many as the ticket is for. */
  units: z.int().min(1).max(MAX_UNITS).optional(),
  reason: Text.optional(),
  scan_id: z.string().max(64).optional(),
  flags: z.array(GrantFlag).max(16).optional(),
});
export const PASSAGE_OUTCOMES = ['passed', 'returned', 'stuck', 'unknown', 'forced', 'free'] as const;
export const PassageOutcome = z.enum(PASSAGE_OUTCOMES);
export type PassageOutcome = z.infer<typeof PassageOutcome>;
export const PassageEntry = z.looseObject({
  ...common,
  kind: z.literal('passage'),
  /** The grant, override or `exit_unmatched` that it belongs to; absent for forced ones, and for free ones without a code. */
  of: OwnReference.optional(),
  ...ticketWhereKnown,
  ...visit,
  direction: Direction,
  /** The unit of the grant, from 1. */
  unit: z.int().min(1).max(MAX_UNITS).optional(),
  outcome: PassageOutcome,
});
/**
 * A code at an outward reader that matches no admission. The lane opened before the lookup: out is never refused. The passage that follows is
 * `free` and belongs to this row. `reason`: the reason that would have refused the code inwards. Never the code itself.
 */
export const ExitUnmatchedEntry = z.looseObject({
  ...common,
  kind: z.literal('exit_unmatched'),
  direction: Direction,
  reason: Reason.optional(),
  event_id: EventId.optional(),
  ticket_ref: TicketRef.optional(),
});
/** The final outcome of a grant, by the cloud or an operator; overrides any passage. */
export const SettlementEntry = z.looseObject({
  ...common,
  kind: z.literal('settlement'),
  of: LedgerReference,
  outcome: z.enum(['passed', 'returned']),
  actor: ActorId,
  reason: Text,
  event_id: EventId.optional(),
  ticket_id: TicketId.optional(),
  ticket_ref: TicketRef.optional(),
  direction: Direction.optional(),
  ...visit,
  /** Absent: every unit. */
  unit: z.int().min(1).max(MAX_UNITS).optional(),
  /** The passage was measured, and the operator overruled it knowingly. Absent: nobody had measured it. */
  force: z.literal(true).optional(),
});
/**
 * `excess`: beyond the ticket's right. `foreign`: of a gate that was never assigned to the event, or of a ref that the ticket never had. `set_aside`: a
 * person took it out of the account. `pending`: its event or ticket is not known yet. `withdrawn`: an earlier verdict no longer holds.
 */
export const VERDICTS = ['excess', 'foreign', 'set_aside', 'pending', 'withdrawn'] as const;
export const PublishedVerdict = z.enum(VERDICTS);
export type PublishedVerdict = z.infer<typeof PublishedVerdict>;
/** The verdicts under which a grant spends no ticket, at gates as in the cloud. Gates do not judge others' grants: they read the verdict. */
export const VERDICTS_THAT_SPEND_NOTHING: readonly PublishedVerdict[] = ['foreign', 'set_aside'];
/** The cloud's verdict on a grant, for every gate of the site. A later row on the same grant replaces an earlier one. */
export const ConflictEntry = z.looseObject({
  ...common,
  kind: z.literal('conflict'),
  of: LedgerReference,
  verdict: PublishedVerdict,
  /** A reason that would have refused it; of a foreign grant, what makes it so. */
  cause: z.string().min(1).max(32),
  ...ticketWhereKnown,
  direction: Direction.optional(),
  /** The grant that used up the right; absent where there is none (a refunded ticket entered). */
  winner: LedgerReference.optional(),
});
export const OverrideEntry = z.looseObject({
  ...common,
  kind: z.literal('override'),
  actor: ActorId,
  action: z.string().min(1).max(32),
  reason: Text,
  direction: Direction.optional(),
  units: z.int().min(1).max(MAX_UNITS).optional(),
  until: Timestamp.optional(),
  transaction: z.string().max(64).optional(),
});
export const MODES = ['controlled', 'free', 'locked', 'out_of_service', 'emergency'] as const;
export const Mode = z.enum(MODES);
export type Mode = z.infer<typeof Mode>;
export const ModeEntry = z.looseObject({
  ...common,
  kind: z.literal('mode'),
  direction: Direction,
  from: Mode,
  to: Mode,
  actor: ActorId,
  reason: Text,
  until: Timestamp.optional(),
});
const noteEntry = <K extends 'fault' | 'alarm' | 'clock'>(kind: K) =>
  z.looseObject({ ...common, kind: z.literal(kind), what: z.string().min(1).max(64), detail: Text });
export const FaultEntry = noteEntry('fault');
export const AlarmEntry = noteEntry('alarm');
export const ClockEntry = noteEntry('clock');

/** Every kind that this version knows. Others are kept as `EntryKey`. */
export const LedgerEntry = z.discriminatedUnion('kind', [
  GrantEntry,
  RefusalEntry,
  ClaimEntry,
  PassageEntry,
  ExitUnmatchedEntry,
  SettlementEntry,
  ConflictEntry,
  OverrideEntry,
  ModeEntry,
  FaultEntry,
  AlarmEntry,
  ClockEntry,
]);
export type LedgerEntry = z.infer<typeof LedgerEntry>;
export type LedgerEntryKind = LedgerEntry['kind'];
export const LEDGER_KINDS = [
  'grant',
  'refusal',
  'claim',
  'passage',
  'exit_unmatched',
  'settlement',
  'conflict',
  'override',
  'mode',
  'fault',
  'alarm',
  'clock',
] as const;

const SeqRange = z.tuple([Seq, Seq]).refine(([from, to]) => from <= to, 'a range ends where it begins or later');
/** [epoch, from, to, hash of `to`]: rows that the gate has pruned. null: the hash is not known any more, as in a closed epoch. */
export const GoneRange = z.tuple([Epoch, Seq, Seq, Sha256Hex.nullable()]).refine(([, from, to]) => from <= to, 'a range ends where it begins or later');
export type GoneRange = z.infer<typeof GoneRange>;

const ledgerHead = {
  schema: z.literal(SCHEMA_VERSION),
  gate: LedgerName,
  epoch: Epoch,
  /** Rows that this store no longer holds because it pruned them: the cloud's prefix passes over them. */
  gone: z.array(GoneRange).max(MAX_VECTOR_EPOCHS).optional(),
  /** In a message without rows: how far this gate holds each ledger of its site, so that the cloud can ask for what it lost (`request/handback`). */
  heads: LedgerHeads.optional(),
  /**
   * Base64, over RFC 8785 of the message without `sig` (hash-chain.ts, sealedText): of a gate, ECDSA P-256 with SHA-256 by its enrolled key, as DER; of a
   * ledger that the cloud writes, Ed25519 by the signing key `key_id`.
   */
  sig: z.base64().max(128).optional(),
  key_id: z.string().max(32).optional(),
};

/** Topic `ledger`. Without entries it is a question, which an ack answers. Entries are checked one by one (a bad one must not hide the others): here only their keys. */
export const LedgerMessage = z.looseObject({ ...ledgerHead, entries: z.array(EntryKey).max(MAX_LEDGER_ENTRIES) });
export type LedgerMessage = z.infer<typeof LedgerMessage>;

/** The same with unread entries: for readers that take each entry with a readable key. */
export const LedgerEnvelope = z.looseObject({ ...ledgerHead, entries: z.array(z.unknown()).max(MAX_LEDGER_ENTRIES) });

/**
 * Topic `handback`: one ledger message as its writer published it, of any ledger of the site. Counts only with the writer's `sig`; without, or with a wrong
 * one, it goes to a work list.
 */
export const HandbackMessage = z.looseObject({ ...ledgerHead, entries: z.array(z.unknown()).min(1).max(MAX_LEDGER_ENTRIES) });
export type HandbackMessage = z.infer<typeof HandbackMessage>;

/** What the cloud holds of one epoch. */
export const AckEpoch = z.looseObject({
  epoch: Epoch,
  /** Rows 1..upto_seq are committed, or declared gone. */
  upto_seq: z.int().min(0),
  /** Hash of row `upto_seq` as the cloud holds it: it stands for the whole prefix. null or absent where upto_seq is 0, or the row is gone and its hash unknown. */
  hash: Sha256Hex.nullable().optional(),
  /** The highest seq held; absent: the end of the prefix or of the highest stored row below a missing range. */
  last: z.int().min(0).optional(),
  /** Ranges above `upto_seq` that are not held. */
  missing: z.array(z.tuple([Seq, Seq])).max(MAX_MISSING_RANGES),
  /** Ranges that were declared gone and are not held: a store that does hold them sends them. */
  gone: z.array(SeqRange).max(MAX_MISSING_RANGES).optional(),
});
export type AckEpoch = z.infer<typeof AckEpoch>;
/** Topic `ack`. Names every epoch that the cloud holds of the gate; an epoch that is not named is not held. */
export const AckMessage = z.looseObject({
  schema: z.literal(SCHEMA_VERSION),
  /** The life of the database: another one after a restore. */
  since: z.string().min(1).max(64).optional(),
  epochs: z.array(AckEpoch),
  cloud_time: Timestamp,
});
export type AckMessage = z.infer<typeof AckMessage>;
