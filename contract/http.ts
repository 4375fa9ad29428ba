/** Bodies of the cloud's HTTP interface (CONTRACT.md); OpenAPI is generated from these. */
import { z } from 'zod';
import { ActorId, Direction, EventId, GateName, LedgerName, TicketId, TicketRef, TierId, Timestamp, ZoneId } from './ids.ts';
import { GrantFlag, GrantType, Mode } from './ledger.ts';
import { MAX_PRICE_CENTS, MAX_RECONCILE_SCANS, MAX_TEXT_CHARS, MAX_UNITS } from './limits.ts';
import { TicketState } from './manifest.ts';
import { Reason } from './reasons.ts';
import { AnyVector } from './references.ts';
import { Command } from './requests.ts';

const Text = z.string().max(MAX_TEXT_CHARS);

/** Every error of the HTTP interface. `error` is a stable code, `message` says what to do. */
export const HttpError = z.looseObject({ success: z.literal(false), error: z.string().regex(/^[A-Z][A-Z0-9_]*$/), message: z.string() });
export type HttpError = z.infer<typeof HttpError>;

/**
 * `POST /offline/reconcile`, as the forerunner's scanners send it. A scan with an id, a time and a result is always accepted: null counts as
 * absent, texts are cut, and unusable fields are left out and named in the answer. `scanned_at`: any form of ISO 8601 with an offset or Z.
 */
export const OfflineScan = z.looseObject({
  ticket_id: TicketId,
  scanned_at: z.iso.datetime({ offset: true }),
  result: z.enum(['ALLOW', 'DENY']),
  reason: Text.optional(),
  scan_count: z.int().min(0).optional(),
  /** Where the scanner gives one, it is the key; else (device_id, ticket_id, scanned_at, result). */
  scan_id: z.string().min(1).max(64).optional(),
  /** Needed only where a ticket id is used in several events of the site. */
  event_id: EventId.optional(),
  direction: Direction.default('in'),
  /** Number of guests who entered on it; absent: as many as the ticket is for. */
  units: z.int().min(1).max(MAX_UNITS).optional(),
});
export type OfflineScan = z.infer<typeof OfflineScan>;
export const ReconcileRequest = z.looseObject({
  device_id: z.string().min(1).max(63),
  /** The scanner's own clock when it sends: the cloud measures its offset, and corrects the times of the scans. Any form of ISO 8601 with an offset or Z. */
  device_time: z.iso.datetime({ offset: true }).nullish(),
  scans: z.array(z.unknown()).max(MAX_RECONCILE_SCANS),
});
export type ReconcileRequest = z.infer<typeof ReconcileRequest>;
/**
 * `PENDING`: stored as a claim, and settled when its ticket appears, entry or refusal; the scanner may delete it. `ERROR`: no scan (no readable id, time or result), stored in
 * quarantine. `reconciled` counts all but ERROR. `message` names the fields that were left out or cut.
 */
export const ReconcileResult = z.looseObject({
  ticket_id: z.string().nullable(),
  status: z.enum(['SUCCESS', 'DUPLICATE', 'CONFLICT', 'PENDING', 'ERROR']),
  message: z.string(),
});
export type ReconcileResult = z.infer<typeof ReconcileResult>;
export const ReconcileResponse = z.looseObject({
  success: z.literal(true),
  reconciled: z.int().min(0),
  failed: z.int().min(0),
  results: z.array(ReconcileResult),
});
export type ReconcileResponse = z.infer<typeof ReconcileResponse>;

/** `POST /scan`: the online scan. Either the code (never stored) or the ticket_ref. */
export const ScanRequest = z
  .looseObject({
    device_id: z.string().min(1).max(63),
    /** Absent: the cloud chooses one of the scanner's events, as a gate chooses. */
    event_id: EventId.nullish(),
    scan_id: z.string().min(1).max(64),
    /**
     * A code that no reader could have sent (too long, control bytes) is refused as unreadable, and recorded. null, here and below, counts as
     * absent.
     */
    code: z.string().min(1).nullish(),
    ticket_ref: TicketRef.nullish(),
    direction: Direction.nullish().describe('absent: in'),
    /** Number of guests of the ticket's party who are present; absent: all who may. More than may pass are refused. */
    units: z.int().min(1).max(MAX_UNITS).nullish(),
    /** The scanner's own clock when it sends, as in `POST /offline/reconcile`. */
    device_time: z.iso.datetime({ offset: true }).nullish(),
  })
  .refine((scan) => ((scan.code ?? null) !== null) !== ((scan.ticket_ref ?? null) !== null), 'give code or ticket_ref, one of them');
export const ScanResponse = z.looseObject({
  success: z.literal(true),
  result: z.enum(['ALLOW', 'DENY']),
  reason: Reason.optional(),
  explanation: z.string().optional(),
  type: GrantType.optional(),
  ticket_id: TicketId.optional(),
  ticket_ref: TicketRef.optional(),
  units: z.int().optional(),
  valid_again_at: Timestamp.optional(),
  /** For a re-entry: the time of the guest's last entry. */
  last_entry_at: Timestamp.optional(),
  vip: z.boolean().optional(),
  /** Conditions that failed but were admitted by policy (GrantFlag). */
  flags: z.array(GrantFlag).optional(),
});

/** `GET /sites/:site/ledger?after=<vector>`; `after` is a LedgerVector in JSON, URL-encoded. Rows as they were written, in order per ledger. */
export const SiteLedgerResponse = z.looseObject({
  success: z.literal(true),
  rows: z.array(z.looseObject({ gate: LedgerName, epoch: z.int(), entry: z.looseObject({ seq: z.int(), kind: z.string(), hash: z.string() }) })),
  more: z.boolean(),
});

/** `POST /sites/:site/ledger/query`: the same question where the vector is too long for an address. */
export const SiteLedgerQuery = z.strictObject({ after: AnyVector });

/** Texts of a ticket: number, seat and the like. */
const Label = z.string().min(1).max(64);
/**
 * `PUT /tickets`: the ticketing side's writes. Absent fields stay as they were; an unknown field is refused. The code is hashed on arrival and not
 * stored.
 */
export const TicketWrite = z.strictObject({
  ticket_id: TicketId,
  event_id: EventId,
  code: z.string().min(1).max(1024).optional(),
  tier: TierId,
  zone: ZoneId.nullable().optional(),
  /** Absent: unchanged; a new ticket is `sold`. */
  status: TicketState.optional(),
  blocked: z.boolean().optional(),
  approved: z.boolean().optional(),
  vip: z.boolean().optional(),
  /** For the staff at the gate; no personal data. */
  note: Text.nullable().optional(),
  max_scans: z.int().min(1).nullable().optional(),
  units: z.int().min(1).max(MAX_UNITS).optional(),
  valid_from: Timestamp.nullable().optional(),
  valid_until: Timestamp.nullable().optional(),
  ticket_number: Label.nullable().optional(),
  /** The shop's id of the holder; no name, no address. */
  user_id: Label.nullable().optional(),
  price_cents: z.int().min(0).max(MAX_PRICE_CENTS).nullable().optional(),
  section: Label.nullable().optional(),
  seat_row: Label.nullable().optional(),
  seat: Label.nullable().optional(),
});
export type TicketWrite = z.infer<typeof TicketWrite>;
export const TicketsWrite = z.strictObject({ tickets: z.array(TicketWrite).min(1).max(1000) });
export const TicketAction = z.enum(['transfer', 'revoke', 'block', 'unblock', 'refund']);
export const TicketActionRequest = z.looseObject({
  reason: Text.min(1),
  actor: ActorId.optional(),
  code: z.string().min(1).max(1024).optional(),
  to_user_id: z.string().max(64).optional(),
});

/** `PUT /events/:id`. Absent fields stay as they were; `policies` replaces all policies. An unknown field is refused. */
export const EventWrite = z.strictObject({
  /** Absent: a new event takes its id as name. */
  name: z.string().min(1).max(200).optional(),
  site: z.string().optional(),
  /** Moves a known event to another site; without it such a write is refused. */
  move: z.boolean().optional(),
  starts_at: Timestamp.nullable().optional(),
  ends_at: Timestamp.nullable().optional(),
  time_zone: z.string().max(64).optional(),
  policies: z.record(z.string(), z.unknown()).optional(),
});
/** `PUT /gates/:site/:gate/assignment`. zones, tiers absent: unchanged for each event, all for a new one; null: all. */
export const AssignmentWrite = z.strictObject({
  event_ids: z.array(EventId).max(64),
  zones: z.array(ZoneId).max(256).nullable().optional(),
  tiers: z.array(TierId).max(256).nullable().optional(),
});
export const GateView = z.looseObject({
  gate: GateName,
  /** offline: also after a time without messages, whatever the broker reports; revoked: the cloud ignores its messages. */
  state: z.enum(['online', 'offline', 'never_seen', 'revoked']),
  /** Online since the connection; offline since the last message; revoked since then. */
  since: Timestamp.nullable(),
  mode: Mode.nullable(),
  backlog: z.int().nullable(),
  manifest_version: z.int().nullable(),
  event_ids: z.array(EventId),
  alerts: z.array(z.string()),
  /** The messages of `alerts`, in the same order. */
  alert_messages: z.array(z.string()).optional(),
  last_row_at: Timestamp.nullable(),
});
/** `GET /gates?site=&limit=&cursor=`: the worst first. `total`: gates in all pages. `next`: the cursor of the next page; null: this is the last. */
export const GatesResponse = z.looseObject({
  success: z.literal(true),
  gates: z.array(GateView),
  total: z.int().min(0).optional(),
  next: z.string().nullable().optional(),
});
/** True: the gate's boot measured no offset, so the time comes from its neighbours in the chain, or from the gate's wall clock alone. */
const Unmeasured = z.literal(true).optional();
/** For a row in the cloud's own ledger: the scanner that sent it. */
const Scanner = GateName.optional();
export const RefusalView = z.looseObject({
  gate: LedgerName,
  device: Scanner,
  epoch: z.int(),
  seq: z.int(),
  at: Timestamp,
  reason: Reason,
  explanation: z.string(),
  event_id: EventId.nullable(),
  ticket_id: TicketId.nullable(),
  unmeasured: Unmeasured,
});
export const RefusalsResponse = z.looseObject({ success: z.literal(true), refusals: z.array(RefusalView) });
/** `POST /gates/:site/:gate/requests/:command` */
export const GateRequestBody = z.looseObject({ actor: ActorId, reason: Text.min(1), args: z.record(z.string(), z.unknown()).default({}) });
export const GateRequestCommand = Command;
/** `POST /gates/:site/:gate/alerts/:alert/clear`: of alerts that the cloud raised (`clone`, `ledger`). */
export const ClearAlertBody = z.looseObject({ actor: ActorId, reason: Text.min(1) });
/** `POST /grants/:site/:gate/:epoch/:seq/settle` */
export const SettleRequest = z.looseObject({
  outcome: z.enum(['passed', 'returned']),
  actor: ActorId,
  reason: Text.min(1),
  /** Overrules a measured passage; without it such a grant is refused with 409 PASSAGE_KNOWN. */
  force: z.boolean().optional(),
});
/** `GET /unsettled`: grants whose passage is not known, newest first; `POST /grants/…/settle` takes `gate`, `epoch` and `seq`. */
export const UnsettledView = z.looseObject({
  gate: LedgerName,
  device: Scanner,
  epoch: z.int(),
  seq: z.int(),
  at: Timestamp,
  event_id: EventId,
  ticket_id: TicketId,
  direction: Direction,
  units: z.int(),
  units_uncertain: z.int(),
  /** open: no passage arrived at all; stuck, unknown: the gate's own answer. */
  outcome: z.enum(['open', 'stuck', 'unknown']),
  unmeasured: Unmeasured,
});
/** `GET /scans/pending`: claims of scanners on tickets that are not known, newest first. */
export const PendingScanView = z.looseObject({
  /** The scanner; absent: a door in SQL at which no device stands. */
  device: Scanner,
  gate: LedgerName,
  epoch: z.int(),
  seq: z.int(),
  at: Timestamp,
  received_at: Timestamp,
  result: z.enum(['ALLOW', 'DENY']),
  reason: z.string().nullable(),
  event_id: EventId.nullable(),
  ticket_id: TicketId.nullable(),
  ticket_ref: TicketRef.nullable(),
  direction: Direction,
  units: z.int().nullable(),
  /** Why it could not be settled, where that was tried. */
  failed: z.string().nullable(),
});
export const PendingScansResponse = z.looseObject({ success: z.literal(true), pending: z.array(PendingScanView), more: z.boolean() });
export const UnsettledResponse = z.looseObject({ success: z.literal(true), unsettled: z.array(UnsettledView), more: z.boolean() });

/** `GET /tickets/:id/history` */
export const HistoryItem = z.looseObject({
  at: Timestamp,
  kind: z.string(),
  gate: LedgerName.nullable(),
  device: Scanner,
  /** The place of the row in the gate's ledger, as `settle` takes it; absent for an action of the ticketing side. */
  epoch: z.int().optional(),
  seq: z.int().optional(),
  text: z.string(),
  unmeasured: Unmeasured,
});
export const HistoryResponse = z.looseObject({ success: z.literal(true), ticket_id: TicketId, status: TicketState, history: z.array(HistoryItem) });
/** `GET /events/:id/occupancy`: people inside = entries − exits; `uncertain` may or may not be inside. */
export const OccupancyResponse = z.looseObject({
  success: z.literal(true),
  event_id: EventId,
  /** entries − exits, plus everybody who passed without a ticket: overrides, free and forced, inwards less outwards. */
  inside: z.int(),
  entries: z.int(),
  exits: z.int(),
  uncertain: z.int(),
  /** Both ways; `…_out`: those of them outwards. A passage after an unmatched exit is a free one. */
  free_passages: z.int(),
  forced_passages: z.int().optional(),
  overrides: z.int(),
  free_out: z.int().optional(),
  forced_out: z.int().optional(),
  overrides_out: z.int().optional(),
  /** A warning about the event itself; absent: none. */
  warnings: z.array(z.string()).optional(),
});
/** `GET /conflicts`: admissions beyond a ticket's right, which only disconnected gates can cause. */
export const ConflictView = z.looseObject({
  event_id: EventId,
  ticket_id: TicketId,
  ticket_ref: TicketRef,
  cause: z.string(),
  winner: z.tuple([LedgerName, z.int(), z.int()]).nullable(),
  loser: z.tuple([LedgerName, z.int(), z.int()]),
  winner_at: Timestamp.nullable(),
  loser_at: Timestamp,
  overlapping: z.boolean(),
  winner_device: Scanner,
  loser_device: Scanner,
  /** The uncertainty of either time. */
  unmeasured: Unmeasured,
});
export const ConflictsResponse = z.looseObject({ success: z.literal(true), conflicts: z.array(ConflictView) });

/** `POST /enroll` */
/** Strict: the sender is not authenticated yet. */
export const EnrollRequest = z.strictObject({ token: z.string().min(16).max(128), csr: z.string().max(8192) });
export const EnrollResponse = z.looseObject({
  success: z.literal(true),
  gate: GateName,
  certificate: z.string(),
  ca: z.string(),
  keys: z.array(z.unknown()),
  assignment: z.looseObject({ event_ids: z.array(EventId) }),
  /** The broker's address as gates call it; absent: the cloud does not know it. */
  broker: z.string().max(512).optional(),
});
/** `POST /enroll/renew`: the certificate that the gate has, and `csr` signed by its key (ECDSA or RSA with SHA-256, Ed25519; base64). */
export const RenewRequest = z.strictObject({ csr: z.string().max(8192), certificate: z.string().max(8192), proof: z.string().max(2048) });
export const RenewResponse = z.looseObject({ success: z.literal(true), gate: GateName, certificate: z.string(), ca: z.string(), not_after: z.string() });
/** `GET /enroll/ca`: the authority, for a gate that knows its fingerprint alone (rules/enrolment-code.ts). */
export const EnrollAuthority = z.looseObject({ success: z.literal(true), ca: z.string().max(16_384) });
