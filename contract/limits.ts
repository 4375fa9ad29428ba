/** Bounds of the wire. Each has a name, a unit and what happens when it is reached. */

/** The number in the topic root and in `schema` of every payload. */
export const SCHEMA_VERSION = 1;
/** A larger payload is quarantined (cloud) or refused (gate) before it is parsed. */
export const MAX_PAYLOAD_BYTES = 256 * 1024;
/** Rows in one ledger message. */
export const MAX_LEDGER_ENTRIES = 100;
/** Epochs named in an acknowledgement, the newest; older ones are not named. */
export const MAX_ACK_EPOCHS = 32;
/** Ranges named in an acknowledgement's `missing`; further gaps are named once these are filled. */
export const MAX_MISSING_RANGES = 100;
/** Ledgers in one vector: a site's gates, its scanners and the cloud's own; a larger vector is malformed. */
export const MAX_LEDGERS = 500;
/** Epochs of one ledger in a vector, and declared gaps in one message; more is malformed. */
export const MAX_VECTOR_EPOCHS = 100;
/** Ledger messages a gate has under way without an acknowledgement; further ones wait in the ledger. */
export const MAX_BATCHES_IN_FLIGHT = 8;
/** A frame from a reader; a longer one is dropped and counted as unreadable. */
export const MAX_FRAME_BYTES = 1024;
/** Free text in any message (reasons, details, explanations): longer is malformed. */
export const MAX_TEXT_CHARS = 512;
/** Scans in one `POST /offline/reconcile`; more is answered with 413. */
export const MAX_RECONCILE_SCANS = 10_000;
/** Changed tickets in one overlay message; a larger change carries versions only and the gate fetches. */
export const MAX_OVERLAY_TICKETS = 500;
/** Guests of one ticket. */
export const MAX_UNITS = 100;
/** Price of a ticket, in hundredths of its currency; a larger one is refused. */
export const MAX_PRICE_CENTS = 100_000_000_000;
/** Times that people write, Unix ms: later or earlier ones are refused, because PostgreSQL and ISO 8601 end where JavaScript's calendar does not. */
export const MIN_TIME_MS = Date.UTC(1970, 0);
export const MAX_TIME_MS = Date.UTC(9999, 11, 31, 23, 59, 59, 999);
