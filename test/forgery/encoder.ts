/**
 * Makes signed codes by the descriptions alone: bytes by hand, Ed25519 by node:crypto. Shares nothing with rules/, so that a
 * mistake there is not made here as well; and unlike an issuer it writes whatever it is told, right or wrong.
 */
import { createPrivateKey, createPublicKey, type KeyObject, sign } from 'node:crypto';

/** RFC 8410: a private key of 32 bytes, and a public one, in DER. */
const PKCS8_HEAD = '302e020100300506032b657004220420';
const SPKI_HEAD = '302a300506032b6570032100';

export interface KeyPair {
  readonly privateKey: KeyObject;
  /** Base64 of the DER SubjectPublicKeyInfo, as manifests carry it. */
  readonly spki: string;
}

/** The key pair of 32 secret bytes: the same bytes, the same keys. */
export function keyPairOf(secret: Buffer): KeyPair {
  const privateKey = createPrivateKey({ key: Buffer.concat([Buffer.from(PKCS8_HEAD, 'hex'), secret]), format: 'der', type: 'pkcs8' });
  return { privateKey, spki: createPublicKey(privateKey).export({ format: 'der', type: 'spki' }).toString('base64') };
}
/** A public key of any 32 bytes, a point or not. */
export const spkiOf = (point: Buffer): string => Buffer.concat([Buffer.from(SPKI_HEAD, 'hex'), point]).toString('base64');
export const signed = (bytes: Buffer, key: KeyPair): Buffer => sign(null, bytes, key.privateKey);

const BASE45 = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:';
/** RFC 9285, by division of each group as one number. */
export function base45(bytes: Buffer): string {
  const groups: string[] = [];
  for (let at = 0; at < bytes.length; at += 2) {
    const group = bytes.subarray(at, at + 2);
    groups.push(
      base45Group(
        group.reduce((value, byte) => value * 256 + byte, 0),
        group.length === 2 ? 3 : 2,
      ),
    );
  }
  return groups.join('');
}
/** Digits of one group, the least significant first; a number above its bytes is written as well, where the digits hold it. */
export function base45Group(value: number, digits: number): string {
  let text = '';
  for (let n = 0, rest = value; n < digits; n++, rest = Math.floor(rest / 45)) text += BASE45.charAt(rest % 45);
  return text;
}

/** The fields of a Stile code; times in Unix seconds. */
export interface StileCode {
  readonly version?: number;
  readonly keyId: string;
  readonly eventId: string;
  /** A UUID. */
  readonly ticketId: string;
  readonly tier: string;
  readonly zone: string;
  readonly from: number | null;
  readonly until: number | null;
}

const short = (text: string): Buffer => Buffer.concat([Buffer.of(text.length), Buffer.from(text, 'latin1')]);
const uuid = (text: string): Buffer => Buffer.concat([Buffer.of(0x80), Buffer.from(text.replaceAll('-', ''), 'hex')]);
/** LEB128 for times, protobuf's varint for pretix: the same bytes. */
export function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = BigInt(value);
  do {
    bytes.push(Number(rest & 0x7fn) | (rest > 0x7fn ? 0x80 : 0));
    rest >>= 7n;
  } while (rest > 0n);
  return Buffer.from(bytes);
}

/** The bytes that a Stile code's signature covers. */
export function stileBytes({ version = 1, keyId, eventId, ticketId, tier, zone, from, until }: StileCode): Buffer {
  const time = (seconds: number | null) => varint(seconds === null ? 0 : seconds + 1);
  return Buffer.concat([Buffer.of(version), short(keyId), short(eventId), uuid(ticketId), short(tier), short(zone), time(from), time(until)]);
}
export const stileText = (bytes: Buffer, signature: Buffer): string => `ST1:${base45(Buffer.concat([bytes, signature]))}`;

/** The fields of a pretix ticket; times in Unix seconds. */
export interface PretixCode {
  readonly seed: string;
  readonly item: number;
  readonly from?: number;
  readonly until?: number;
}
/** Protobuf by hand: a text as field 1 (wire type 2), numbers as fields 2, 5 and 6 (wire type 0). */
export function pretixPayload({ seed, item, from, until }: PretixCode): Buffer {
  const number = (field: number, value: number | undefined) => (value === undefined ? [] : [Buffer.of(field << 3), varint(value)]);
  const text = Buffer.from(seed, 'utf8');
  return Buffer.concat([Buffer.of(0x0a), varint(text.length), text, ...number(2, item), ...number(5, from), ...number(6, until)]);
}
/** The frame around payload and signature, as base64, not yet reversed. */
export function pretixBase64(payload: Buffer, signature: Buffer, version = 1): string {
  const head = Buffer.alloc(5);
  head.writeUInt8(version, 0);
  head.writeUInt16BE(payload.length, 1);
  head.writeUInt16BE(signature.length, 3);
  return Buffer.concat([head, payload, signature]).toString('base64');
}
export const reversed = (text: string): string => [...text].reverse().join('');
export const pretixText = (payload: Buffer, signature: Buffer, version = 1): string => reversed(pretixBase64(payload, signature, version));
