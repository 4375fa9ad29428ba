/**
 * Encodes and decodes Stile's signed code.
 *
 *   ST1:<base45 of>  0x01 · key id · event id · ticket id · tier · zone · valid from · valid until · 64-byte Ed25519 signature
 *
 * A text is its length in one byte (0: none) and its ASCII characters; 0x80 stands for a lowercase UUID in
 * 16 bytes. A time is Unix seconds + 1 as LEB128 (0: open). The signature covers every byte before it.
 */
import { z } from 'zod';
import { EventId, KeyId, TicketId, TierId, ZoneId } from '../contract/ids.ts';
import { base45Decode, base45Encode } from './base45.ts';
import type { StileForm } from './code-forms.ts';

/** Prefix of a signed code; within the QR alphanumeric alphabet. */
export const SIGNED_PREFIX = 'ST1:';
const VERSION = 0x01;
const UUID_MARK = 0x80;
export const SIGNATURE_BYTES = 64;
const MAX_TEXT_BYTES = 64;
/** Seconds fit 5 groups of 7 bits until the year 3058. */
const MAX_TIME_BYTES = 5;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

/** The content of a signed code. Times are Unix ms at whole seconds; null: open. */
export type SignedContent = Pick<StileForm, 'keyId' | 'eventId' | 'ticketId' | 'tier' | 'zone' | 'validFromMs' | 'validUntilMs'>;

const Content = z.strictObject({
  keyId: KeyId,
  eventId: EventId,
  ticketId: TicketId,
  tier: TierId,
  zone: ZoneId.nullable(),
  validFromMs: z.int().min(0).multipleOf(1000, 'a signed code holds whole seconds').nullable(),
  validUntilMs: z.int().min(0).multipleOf(1000, 'a signed code holds whole seconds').nullable(),
});

/**
 * Encodes a signed code in two steps, so that the key stays with its owner: the caller signs `bytes` with Ed25519, then passes the 64 bytes to
 * `assemble`. Throws for an id or a time that cannot be encoded.
 */
export function encodeSigned(content: SignedContent): { readonly bytes: Uint8Array; readonly assemble: (signature: Uint8Array) => string } {
  const { keyId, eventId, ticketId, tier, zone, validFromMs, validUntilMs } = Content.parse(content);
  const out: number[] = [VERSION];
  for (const text of [keyId, eventId, ticketId, tier, zone ?? '']) writeText(out, text);
  for (const time of [validFromMs, validUntilMs]) writeTime(out, time);
  const bytes = Uint8Array.from(out);
  return {
    bytes,
    assemble(signature) {
      if (signature.length !== SIGNATURE_BYTES) throw new RangeError(`an Ed25519 signature has ${SIGNATURE_BYTES} bytes, this one ${signature.length}`);
      const whole = new Uint8Array(bytes.length + SIGNATURE_BYTES);
      whole.set(bytes);
      whole.set(signature, bytes.length);
      return SIGNED_PREFIX + base45Encode(whole);
    },
  };
}

function writeText(out: number[], text: string): void {
  if (UUID.test(text)) {
    out.push(UUID_MARK);
    for (const pair of text.replaceAll('-', '').matchAll(/../g)) out.push(Number.parseInt(pair[0], 16));
    return;
  }
  out.push(text.length);
  for (let i = 0; i < text.length; i++) out.push(text.charCodeAt(i));
}

function writeTime(out: number[], timeMs: number | null): void {
  let value = timeMs === null ? 0 : timeMs / 1000 + 1;
  while (value >= 0x80) {
    out.push((value % 0x80) | 0x80);
    value = Math.floor(value / 0x80);
  }
  out.push(value);
}

/** Decodes the content of a signed code, or returns null for any other text. Total; verifies nothing. */
export function readStile(text: string): StileForm | null {
  if (!text.startsWith(SIGNED_PREFIX)) return null;
  const bytes = base45Decode(text.slice(SIGNED_PREFIX.length));
  if (bytes === null || bytes[0] !== VERSION || bytes.length <= SIGNATURE_BYTES) return null;
  const signedBytes = bytes.subarray(0, bytes.length - SIGNATURE_BYTES);
  const reader = { bytes: signedBytes, at: 1 };
  const [keyId, eventId, ticketId, tier, zone] = [readText(reader), readText(reader), readText(reader), readText(reader), readText(reader)];
  const [validFromMs, validUntilMs] = [readTime(reader), readTime(reader)];
  if (reader.at !== signedBytes.length) return null;
  const content = Content.safeParse({ keyId, eventId, ticketId, tier, zone: zone === '' ? null : zone, validFromMs, validUntilMs });
  if (!content.success) return null;
  return { form: 'stile', ...content.data, signedBytes, signature: bytes.subarray(bytes.length - SIGNATURE_BYTES), lookupText: content.data.ticketId };
}

interface ByteReader {
  readonly bytes: Uint8Array;
  at: number;
}

/** Returns undefined where the bytes end early or are malformed; the content's schema then refuses it. */
function readText(reader: ByteReader): string | undefined {
  const length = reader.bytes[reader.at++];
  if (length === undefined || (length > MAX_TEXT_BYTES && length !== UUID_MARK)) return undefined;
  const size = length === UUID_MARK ? 16 : length;
  const part = reader.bytes.subarray(reader.at, reader.at + size);
  reader.at += size;
  if (part.length !== size) return undefined;
  if (length !== UUID_MARK) return String.fromCharCode(...part);
  const hex = [...part].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}

function readTime(reader: ByteReader): number | null | undefined {
  let value = 0;
  for (let i = 0; i < MAX_TIME_BYTES; i++) {
    const byte = reader.bytes[reader.at++];
    if (byte === undefined) return undefined;
    value += (byte & 0x7f) * 0x80 ** i;
    if (byte < 0x80) return value === 0 ? null : (value - 1) * 1000;
  }
  return undefined;
}
