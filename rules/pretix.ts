/**
 * Decodes pretix's signed ticket, `pretix_sig1`, as its scanners do: base64, reversed, of 0x01 · payload length · signature length (two bytes each,
 * big endian) · payload · Ed25519 signature. The payload is protobuf: 1 seed, 2 item, 3 variation, 4 subevent, 5 valid from, 6 valid until (Unix
 * seconds).
 */
import type { PretixForm } from './code-forms.ts';

const HEADER_BYTES = 5;
const SIGNATURE_BYTES = 64;
const BASE64 = /^[A-Za-z0-9+/]+={0,2}$/;

/** Decodes the ticket's content, or returns null for any other text. Total; verifies nothing. */
export function readPretix(text: string): PretixForm | null {
  // Reversed, 0x01 and a payload of less than 16 KiB always end in QA: other codes are rejected without decoding.
  if (!text.endsWith('QA') || text.length < ((HEADER_BYTES + SIGNATURE_BYTES) * 4) / 3) return null;
  const bytes = fromBase64([...text].reverse().join(''));
  if (bytes === null || bytes[0] !== 0x01 || bytes.length < HEADER_BYTES) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const payloadBytes = view.getUint16(1);
  if (view.getUint16(3) !== SIGNATURE_BYTES || bytes.length !== HEADER_BYTES + payloadBytes + SIGNATURE_BYTES) return null;
  const signedBytes = bytes.subarray(HEADER_BYTES, HEADER_BYTES + payloadBytes);
  const fields = readFields(signedBytes);
  if (fields === null) return null;
  // pretix writes 0 for none.
  const time = (seconds: number | undefined): number | null => (seconds === undefined || seconds === 0 ? null : seconds * 1000);
  return {
    form: 'pretix',
    item: fields.get(2) ?? 0,
    // proto3 leaves a zero out: no variation and variation 0 are the same.
    variation: fields.get(3) || null,
    subevent: fields.get(4) || null,
    validFromMs: time(fields.get(5)),
    validUntilMs: time(fields.get(6)),
    signedBytes,
    signature: bytes.subarray(HEADER_BYTES + payloadBytes),
    lookupText: text,
  };
}

/** Decodes canonical base64 alone: another spelling of the same bytes would be another ticket under the same signature. */
function fromBase64(text: string): Uint8Array | null {
  if (!BASE64.test(text)) return null;
  try {
    const raw = atob(text);
    return btoa(raw) === text ? Uint8Array.from(raw, (character) => character.charCodeAt(0)) : null;
  } catch {
    return null;
  }
}

/** Latest time, in Unix seconds (year 5138); a message with a later one is refused. Keeps milliseconds exact. */
const MAX_SECONDS = 100_000_000_000n;

/** Returns number fields 2 to 6 by their number, or null for malformed bytes. Skips the seed and unknown fields. */
function readFields(bytes: Uint8Array): Map<number, number> | null {
  const fields = new Map<number, number>();
  let at = 0;
  const varint = (): bigint | null => {
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const byte = bytes[at++];
      if (byte === undefined) return null;
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return BigInt.asIntN(64, value);
    }
    return null;
  };
  while (at < bytes.length) {
    const key = varint();
    if (key === null || key < 8n) return null;
    const [field, wire] = [Number(key >> 3n), Number(key & 7n)];
    if (wire === 0) {
      const value = varint();
      if (value === null) return null;
      if (field < 2 || field > 6) continue;
      if (value < 0n || value > MAX_SECONDS) return null;
      fields.set(field, Number(value));
      continue;
    }
    // pretix writes numbers as varints only.
    if (field >= 2 && field <= 6) return null;
    const size = wire === 2 ? varint() : wire === 1 ? 8n : wire === 5 ? 4n : null;
    if (size === null || size < 0n || size > BigInt(bytes.length - at)) return null;
    at += Number(size);
  }
  return fields;
}
