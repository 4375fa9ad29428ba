/**
 * Defines the names of sites, gates, events, tickets and rows.
 *
 * Ids of sites and gates have at most 31 characters, so that `<site>/<gate>` fits a certificate's common name (64 characters, X.520
 * ub-common-name).
 */
import { z } from 'zod';

/** One part of a gate's name. `cloud` is the cloud's own ledger; ids never begin with `_`. */
const NAME_PART = /^[a-z0-9][a-z0-9-]{0,30}$/;

/** The reserved gate name under which the cloud writes rows of its own (scans, settlements). */
export const CLOUD_GATE = 'cloud';

export const SiteId = z
  .string()
  .regex(NAME_PART, 'a site id has 1 to 31 of a-z, 0-9 and -, and does not begin with -')
  .refine((id) => id !== CLOUD_GATE, '"cloud" is reserved');
export type SiteId = z.infer<typeof SiteId>;

/** The last part of a gate's name, `cloud` included: the writer of a row. */
export const LedgerGateId = z.string().regex(NAME_PART, 'a gate id has 1 to 31 of a-z, 0-9 and -, and does not begin with -');
export const GateId = LedgerGateId.refine((id) => id !== CLOUD_GATE, '"cloud" is reserved');
export type GateId = z.infer<typeof GateId>;

const FULL_NAME_HINT = 'a gate is named <site>/<gate>, each 1 to 31 of a-z, 0-9 and -, such as arena/north-03';

/** The pattern of GateName, for programs that cannot afford to build a schema. */
export const GATE_NAME = /^(?!cloud\/)[a-z0-9][a-z0-9-]{0,30}\/(?!cloud$)[a-z0-9][a-z0-9-]{0,30}$/;
/** `<site>/<gate>` of a real gate: its MQTT user name, client id and certificate's common name. */
export const GateName = z.string().regex(GATE_NAME, FULL_NAME_HINT);
/** A ledger: `<site>/<gate>` of a real gate, `<site>/cloud`, or `<site>/@<device>` for what a scanner reported. At most 64 characters. */
export const LedgerName = z
  .string()
  .regex(/^(?!cloud\/)[a-z0-9][a-z0-9-]{0,30}\/(?:[a-z0-9][a-z0-9-]{0,30}|@(?!cloud$)[a-z0-9][a-z0-9-]{0,30})$/, FULL_NAME_HINT);
export type GateName = z.infer<typeof GateName>;

/** Returns whether the cloud writes this ledger itself: `<site>/cloud`, or `<site>/@<device>` for what a scanner reported. */
export const isCloudLedger = (ledger: string): boolean => ledger.endsWith(`/${CLOUD_GATE}`) || ledger.includes('/@');

/** Returns the ledger in which the cloud writes what a scanner, `<site>/<device>`, reported. No certificate and no MQTT user has such a name. */
export const scannerLedger = (device: string): string => device.replace('/', '/@');

/** Returns the name that people know a ledger's writer by: of a scanner's ledger the scanner, `<site>/<device>`. */
export const writerOf = (ledger: string): string => ledger.replace('/@', '/');

/** Splits `<site>/<gate>`. The name must have been checked before. */
export function splitGateName(name: string): { site: string; gate: string } {
  const slash = name.indexOf('/');
  return { site: name.slice(0, slash), gate: name.slice(slash + 1) };
}

/** Ids that the ticketing side chooses (events, tickets, tiers, zones, staff): opaque, printable, without spaces. */
export const ExternalId = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._:@-]{0,63}$/, 'an id has 1 to 64 letters, digits or . _ : @ -');
export const EventId = ExternalId;
export const TicketId = ExternalId;
export const TierId = ExternalId;
export const ZoneId = ExternalId;
/** Actors are opaque staff ids, `button` (the staff button) or `system`. Never a name or an address. */
export const ActorId = ExternalId;

/** The pattern of KeyId. */
export const KEY_ID = /^[A-Za-z0-9_-]{1,32}$/;
/** Names a public key, in signatures and signed codes. */
export const KeyId = z.string().regex(KEY_ID, 'a key id has 1 to 32 letters, digits, _ or -');
export type KeyId = z.infer<typeof KeyId>;

/** First 16 bytes of SHA-256(salt of the event ‖ UTF-8 code), lowercase hex. The code itself is never sent. */
export const TicketRef = z.string().regex(/^[0-9a-f]{32}$/, 'a ticket_ref is 32 lowercase hex digits');
export type TicketRef = z.infer<typeof TicketRef>;

export const Sha256Hex = z.string().regex(/^[0-9a-f]{64}$/, '64 lowercase hex digits');

/** Epoch and sequence number start at 1; both stay exact in a double. */
export const Epoch = z.int().min(1).max(Number.MAX_SAFE_INTEGER);
export const Seq = z.int().min(1).max(Number.MAX_SAFE_INTEGER);
/** [epoch, seq] of a row, in ledgers where the gate is known from elsewhere. */
export const RowPosition = z.tuple([Epoch, Seq]);
export type RowPosition = z.infer<typeof RowPosition>;
/**
 * The rows of each ledger that were seen, or are counted: `{ "arena/north-03": [epoch, seq] }`, a contiguous prefix. seq 0: nothing yet of that
 * epoch.
 */
export const LedgerVector = z.record(LedgerName, z.tuple([Epoch, z.int().min(0)]));
export type LedgerVector = z.infer<typeof LedgerVector>;

/** UTC, ISO 8601 with exactly milliseconds, as `Date.prototype.toISOString` writes it. */
export const Timestamp = z.iso.datetime({ precision: 3, offset: false });
export type Timestamp = z.infer<typeof Timestamp>;

export const Direction = z.enum(['in', 'out']);
export type Direction = z.infer<typeof Direction>;
export const Medium = z.enum(['opaque', 'signed', 'rotating', 'manual']);
export type Medium = z.infer<typeof Medium>;
