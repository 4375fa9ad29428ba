/**
 * Defines what a gate knows of tickets: manifests, their deltas and overlays, and the lookup of one unknown code. Rights and usage are separate: a
 * ticket's status has its right, never its usage.
 */
import { z } from 'zod';
import { Direction, Epoch, EventId, ExternalId, GateName, KeyId, LedgerName, Seq, Sha256Hex, TicketId, TicketRef, TierId, Timestamp, ZoneId } from './ids.ts';
import { MAX_OVERLAY_TICKETS, MAX_TEXT_CHARS, MAX_UNITS, SCHEMA_VERSION } from './limits.ts';
import type { Reason } from './reasons.ts';
import { AnyVector, Hash8Hex } from './references.ts';

/** A ticket's right as a gate sees it. */
export const TICKET_RIGHTS = ['valid', 'unpaid', 'unapproved', 'blocked', 'revoked', 'canceled', 'expired'] as const;
export const TicketRight = z.enum(TICKET_RIGHTS);
export type TicketRight = z.infer<typeof TicketRight>;

/** The reason of a refusal of a right other than `valid`. */
export const RIGHT_REASONS: Readonly<Record<Exclude<TicketRight, 'valid'>, Reason>> = {
  unpaid: 'unpaid',
  unapproved: 'unapproved',
  blocked: 'blocked',
  revoked: 'revoked',
  canceled: 'canceled',
  expired: 'invalid_time',
};

/** The twelve states of a ticket in the cloud's ledger. */
export const TICKET_STATES = [
  'available',
  'reserved',
  'sold',
  'minted',
  'active',
  'transferred',
  'checked_in',
  'used',
  'revoked',
  'refunded',
  'expired',
  'cancelled',
] as const;
export const TicketState = z.enum(TICKET_STATES);
export type TicketState = z.infer<typeof TicketState>;

/**
 * State → right. null: not in the manifest (nobody holds it yet), so a gate answers `invalid`.
 * checked_in and used stay valid: usage comes from ledgers alone. transferred stays valid for its
 * new holder; the old code becomes a `revoked` tombstone.
 */
export const STATE_RIGHTS: Readonly<Record<TicketState, TicketRight | null>> = {
  available: null,
  reserved: 'unpaid',
  sold: 'valid',
  minted: 'valid',
  active: 'valid',
  transferred: 'valid',
  checked_in: 'valid',
  used: 'valid',
  revoked: 'revoked',
  refunded: 'canceled',
  expired: 'expired',
  cancelled: 'canceled',
};

/** One ticket, as in a manifest (snake_case: in overlays and files). */
export const ManifestTicket = z.looseObject({
  ticket_id: TicketId,
  ticket_ref: TicketRef,
  tier: TierId,
  zone: ZoneId.nullable(),
  status: TicketRight,
  /** Entries in total; null: by the policy. */
  max_scans: z.int().min(1).max(1_000_000).nullable(),
  /** Guests that one entry admits. */
  units: z.int().min(1).max(MAX_UNITS).default(1),
  valid_from: Timestamp.nullable().default(null),
  valid_until: Timestamp.nullable().default(null),
  /** VIP pass, or a general ticket linked to a VIP reservation: re-enters without limit. */
  vip: z.boolean().default(false),
  /** Reason of the block, for the staff; no personal data. */
  note: z.string().max(MAX_TEXT_CHARS).nullable().default(null),
});
export type ManifestTicket = z.infer<typeof ManifestTicket>;
/** A ticket_ref that is no longer valid: removed, or replaced (`revoked`: the guest reads so). */
export const Tombstone = z.looseObject({
  ticket_ref: TicketRef,
  ticket_id: TicketId.nullable(),
  removed: z.literal(true),
  reason: z.enum(['invalid', 'revoked', 'canceled']),
});
export type Tombstone = z.infer<typeof Tombstone>;
export const TicketChange = z.union([Tombstone, ManifestTicket]);
export type TicketChange = z.infer<typeof TicketChange>;

/** One counted entry or exit of a used ticket, as of `upto`. Keyed by the grant's original: gate, epoch, seq and hash8. */
export const UsageEntry = z.looseObject({
  ticket_ref: TicketRef,
  gate: LedgerName,
  epoch: Epoch,
  seq: Seq,
  /** Absent: written before entries named hashes. */
  hash8: Hash8Hex.optional(),
  at: Timestamp,
  direction: Direction,
  units: z.int().min(0).max(MAX_UNITS),
  outcome: z.enum(['passed', 'stuck', 'unknown', 'open']),
  area: z.string().max(64).optional(),
  pass: ExternalId.optional(),
});
export type UsageEntry = z.infer<typeof UsageEntry>;

/** A public key that verifies codes or signed payloads. `spki` is base64 of the DER SubjectPublicKeyInfo. */
export const PublicKey = z.looseObject({
  key_id: KeyId,
  use: z.enum(['manifest', 'code', 'pretix']),
  alg: z.literal('Ed25519'),
  spki: z.base64().max(256),
  not_after: Timestamp.nullable().default(null),
  /**
   * No longer trusted, whatever a gate's clock says. Kept in the list: it proves that the event's codes are signed, so that a bare ticket id is no
   * code.
   */
  revoked: z.boolean().optional(),
});
export type PublicKey = z.infer<typeof PublicKey>;

/** A manifest without its tickets. rules/policy.ts checks `policies`. */
export const ManifestHead = z.looseObject({
  schema: z.literal(SCHEMA_VERSION),
  event_id: EventId,
  version: z.int().min(1),
  generated_at: Timestamp,
  expires_at: Timestamp,
  name: z.string().max(200),
  starts_at: Timestamp.nullable(),
  ends_at: Timestamp.nullable(),
  time_zone: z.string().max(64),
  /** Random, per event, hex: prefix of every code before hashing. */
  salt: z.string().regex(/^[0-9a-f]{32,128}$/),
  policies: z.record(z.string(), z.unknown()),
  keys: z.array(PublicKey).max(32),
  /** Revoked and blocked signed codes, by ticket_ref; the version never goes back. */
  revoked: z.looseObject({ version: z.int().min(0), refs: z.array(TicketRef).max(100_000) }),
  ticket_count: z.int().min(0),
  upto: AnyVector,
});
export type ManifestHead = z.infer<typeof ManifestHead>;

/** Signed facts of one event's files, in `manifest/want`. The signature covers this object. */
export const WantedManifest = z.looseObject({
  event_id: EventId,
  version: z.int().min(1),
  overlay_version: z.int().min(1),
  sha256: Sha256Hex,
  size: z.int().min(0),
  url: z.string().max(2048),
  key_id: z.string().max(32),
  signature: z.base64().max(128),
});
export type WantedManifest = z.infer<typeof WantedManifest>;
/**
 * `manifest/want`, retained: every event that the gate must hold. A gate drops an event that is no longer named, if the message as a whole is
 * signed for this gate and no older than the last such one: a removal needs the same proof as an addition.
 */
export const WantMessage = z.looseObject({
  schema: z.literal(SCHEMA_VERSION),
  events: z.array(WantedManifest).max(64),
  gate: GateName.optional(),
  /** By the clock of the cloud's database. */
  issued_at: Timestamp.optional(),
  key_id: z.string().max(32).optional(),
  /** Covers the whole message. */
  signature: z.base64().max(128).optional(),
});
export type WantMessage = z.infer<typeof WantMessage>;

/** `overlay`: changes from one version to the next. `tickets` absent: too large, fetch `since`. */
export const OverlayMessage = z
  .looseObject({
    schema: z.literal(SCHEMA_VERSION),
    event_id: EventId,
    from_version: z.int().min(1),
    to_version: z.int().min(2),
    tickets: z.array(TicketChange).max(MAX_OVERLAY_TICKETS).optional(),
    key_id: z.string().max(32),
    signature: z.base64().max(128),
  })
  .refine((overlay) => overlay.to_version > overlay.from_version, 'to_version is after from_version');
export type OverlayMessage = z.infer<typeof OverlayMessage>;

/** `lookup`: the gate asks about one unknown code, by its ref for each event it holds. */
export const LookupQuestion = z.looseObject({
  schema: z.literal(SCHEMA_VERSION),
  n: z.int().min(0),
  refs: z
    .array(z.looseObject({ event_id: EventId, ticket_ref: TicketRef }))
    .min(1)
    .max(64),
});
export type LookupQuestion = z.infer<typeof LookupQuestion>;
/** `lookup/<n>`: facts, never a grant. */
export const LookupAnswer = z.looseObject({
  schema: z.literal(SCHEMA_VERSION),
  n: z.int().min(0),
  tickets: z.array(z.looseObject({ event_id: EventId, overlay_version: z.int().min(1), ticket: TicketChange, usage: z.array(UsageEntry).max(1000) })).max(64),
});
export type LookupAnswer = z.infer<typeof LookupAnswer>;

/**
 * Tables of the ready-made SQLite manifest file (application/vnd.sqlite3). Immutable; keyed by the 16
 * bytes of ticket_ref, WITHOUT ROWID. Small numbers stand for tiers, zones and rights so that a
 * ticket costs little more than its key. `PRAGMA application_id` marks the file.
 */
export const MANIFEST_APPLICATION_ID = 0x53744d31; // "StM1"
export const MANIFEST_TABLES: readonly string[] = [
  // Keys: the fields of ManifestHead, values as JSON.
  'CREATE TABLE head (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID',
  'CREATE TABLE tiers (tier INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)',
  'CREATE TABLE zones (zone INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)',
  // id: 16 bytes where ticket_id is a lowercase UUID, else its text. status: index into TICKET_RIGHTS. Times: Unix ms. vip: 1 or NULL.
  'CREATE TABLE tickets (ref BLOB PRIMARY KEY, id NOT NULL, tier INTEGER NOT NULL, zone INTEGER, status INTEGER NOT NULL, max_scans INTEGER, units INTEGER, valid_from_ms INTEGER, valid_until_ms INTEGER, vip INTEGER, note TEXT) WITHOUT ROWID',
  // direction: 0 in, 1 out. outcome as in UsageEntry. hash8: eight bytes, empty where the entry has none. One row a counted grant.
  'CREATE TABLE usage (ref BLOB NOT NULL, gate TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, at_ms INTEGER NOT NULL, direction INTEGER NOT NULL, units INTEGER NOT NULL, outcome TEXT NOT NULL, hash8 BLOB NOT NULL, PRIMARY KEY (ref, gate, epoch, seq, hash8)) WITHOUT ROWID',
];

/** `GET /offline/manifest/:eventId`, in the forerunner's camelCase. */
export const OfflineTicket = z.looseObject({
  ticketId: TicketId,
  ticketRef: TicketRef,
  tier: TierId,
  zone: ZoneId.nullable(),
  maxScans: z.int().min(1).nullable(),
  currentScans: z.int().min(0),
  status: TicketRight,
  units: z.int().min(1).optional(),
  validFrom: Timestamp.nullable().optional(),
  validUntil: Timestamp.nullable().optional(),
  vip: z.boolean().optional(),
  note: z.string().nullable().optional(),
  /** In a delta: the ref opens nothing any more. */
  removed: z.boolean().optional(),
  reason: z.string().optional(),
});
export type OfflineTicket = z.infer<typeof OfflineTicket>;
export const OfflineManifest = z.looseObject({
  eventId: EventId,
  version: z.int().min(1),
  generatedAt: Timestamp,
  expiresAt: Timestamp,
  tickets: z.array(OfflineTicket),
  policies: z.record(z.string(), z.unknown()),
  /** Present in a delta: the version that these changes start from. */
  since: z.int().min(1).optional(),
  /**
   * In a delta: the same changes as signed overlays, as the topic `overlay` would have brought them, in order, gapless from
   * `since` to `version`. What gates apply. Too much for them: 409 DELTA_TOO_LARGE, and a new file is named in `manifest/want`.
   */
  overlays: z.array(OverlayMessage).max(1000).optional(),
  name: z.string().optional(),
  startsAt: Timestamp.nullable().optional(),
  endsAt: Timestamp.nullable().optional(),
  timeZone: z.string().optional(),
  salt: z.string().optional(),
  upto: AnyVector.optional(),
  usage: z.array(UsageEntry).optional(),
  keys: z.array(PublicKey).optional(),
  revoked: z.looseObject({ version: z.int(), refs: z.array(TicketRef) }).optional(),
  keyId: z.string().optional(),
  signature: z.string().optional(),
});
export type OfflineManifest = z.infer<typeof OfflineManifest>;
export const OfflineManifestResponse = z.looseObject({ success: z.literal(true), manifest: OfflineManifest });
