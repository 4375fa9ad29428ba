/** Says when a gate renews its certificate: from half of its life on, the gates of a venue spread over a month. Gate and cloud ask the same. */

const DAY_MS = 86_400_000;
/** Days over which the gates of an installation spread, by their names. */
export const RENEWAL_SPREAD_DAYS = 30;
/** Longest time after its end in which a certificate can still be renewed, once staff let the gate back; then the gate must enrol again. */
export const RENEWABLE_AFTER_END_MS = 400 * DAY_MS;

export interface CertificateLife {
  readonly gate: string;
  readonly beginsMs: number;
  readonly endsMs: number;
}

/** Returns when the certificate is due, in ms since 1970. A short life spreads over a tenth of it at most. */
export function renewalDueMs({ gate, beginsMs, endsMs }: CertificateLife): number {
  const lifeMs = endsMs - beginsMs;
  const spreadMs = Math.min(RENEWAL_SPREAD_DAYS * DAY_MS, lifeMs / 10);
  return Math.floor(beginsMs + lifeMs / 2 + spreadMs * shareOf(gate));
}

/** Maps a name to [0, 1), evenly over many names: FNV-1a, then a final mix. */
function shareOf(name: string): number {
  let hash = 0x811c9dc5;
  for (let at = 0; at < name.length; at++) hash = Math.imul(hash ^ name.charCodeAt(at), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return ((hash ^ (hash >>> 16)) >>> 0) / 2 ** 32;
}
