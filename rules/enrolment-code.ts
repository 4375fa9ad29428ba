/**
 * The one code that enrols a gate, printed as a QR or typed: where the cloud is, how its authority is known, and the one-use token. The
 * fingerprint makes the first contact safe: a gate that knows no authority yet believes the one with this fingerprint alone.
 *
 * Form: `STILE1:` and base45 of one version byte, the token (32 bytes), SHA-256 of the authority's certificate in DER (32 bytes), and the cloud's
 * address in UTF-8. At most MAX_ENROLMENT_CODE_BYTES bytes are encoded, which a QR of 70 modules holds.
 */
import { base45Decode, base45Encode } from './base45.ts';

export const ENROLMENT_PREFIX = 'STILE1:';
/** Bytes before the encoding; a longer address is refused. */
export const MAX_ENROLMENT_CODE_BYTES = 300;
const VERSION = 1;
const TOKEN_BYTES = 32;
const FINGERPRINT_BYTES = 32;
const HEAD_BYTES = 1 + TOKEN_BYTES + FINGERPRINT_BYTES;

export interface EnrolmentCode {
  /** `https://…`, without a slash at the end. */
  readonly cloud: string;
  /** SHA-256 of the authority's certificate in DER. */
  readonly fingerprint: Uint8Array;
  /** The token's 32 random bytes. */
  readonly token: Uint8Array;
}

/** Encodes the code. Throws a RangeError for an address that is too long, and for a token or fingerprint of another length. */
export function encodeEnrolment({ cloud, fingerprint, token }: EnrolmentCode): string {
  const address = new TextEncoder().encode(cloud);
  if (token.length !== TOKEN_BYTES || fingerprint.length !== FINGERPRINT_BYTES) throw new RangeError('token and fingerprint have 32 bytes each');
  if (HEAD_BYTES + address.length > MAX_ENROLMENT_CODE_BYTES)
    throw new RangeError(`the cloud's address has ${address.length} bytes, and at most ${MAX_ENROLMENT_CODE_BYTES - HEAD_BYTES} fit into the code`);
  const bytes = new Uint8Array(HEAD_BYTES + address.length);
  bytes[0] = VERSION;
  bytes.set(token, 1);
  bytes.set(fingerprint, 1 + TOKEN_BYTES);
  bytes.set(address, HEAD_BYTES);
  return `${ENROLMENT_PREFIX}${base45Encode(bytes)}`;
}

/** Returns whether a text is meant as an enrolment code, whole or damaged. */
export const isEnrolmentCode = (text: string): boolean => text.trim().toUpperCase().startsWith(ENROLMENT_PREFIX);

/** Decodes a code. Returns the cause in words where it is none. Total: it throws for no text. */
export function decodeEnrolment(text: string): { readonly ok: true; readonly code: EnrolmentCode } | { readonly ok: false; readonly cause: string } {
  const no = (cause: string) => ({ ok: false as const, cause });
  if (!isEnrolmentCode(text)) return no(`it does not begin with ${ENROLMENT_PREFIX}`);
  const bytes = base45Decode(text.trim().toUpperCase().slice(ENROLMENT_PREFIX.length));
  if (bytes === null) return no('it is damaged: copy it whole, or scan it again');
  if (bytes.length > MAX_ENROLMENT_CODE_BYTES) return no(`it is longer than ${MAX_ENROLMENT_CODE_BYTES} bytes`);
  if (bytes[0] !== VERSION) return no('it is of a newer Stile: update this gate first');
  if (bytes.length <= HEAD_BYTES) return no('it is cut off: copy it whole, or scan it again');
  let cloud: string;
  try {
    cloud = new TextDecoder('utf-8', { fatal: true }).decode(bytes.subarray(HEAD_BYTES));
  } catch {
    return no('its address is damaged: scan it again');
  }
  if (!/^https:\/\/[^\s/?#@]+(\/[^\s?#]*)?$/.test(cloud)) return no('its address is not one of https://');
  return { ok: true, code: { cloud, token: bytes.slice(1, 1 + TOKEN_BYTES), fingerprint: bytes.slice(1 + TOKEN_BYTES, HEAD_BYTES) } };
}
