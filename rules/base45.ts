/**
 * Encodes bytes as text of the QR alphanumeric alphabet, so that a QR stays small: Base45 (RFC 9285).
 *
 * The alphabet holds a space, but an encoding never ends in one: the last character is the most significant digit, at most 32 (of two bytes) or 5
 * (of one). Trimming cannot damage a code.
 */

const ALPHABET = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:';
const DIGITS = new Map([...ALPHABET].map((character, digit) => [character, digit]));

/** Encodes two bytes in three characters, a last single byte in two. */
export function base45Encode(bytes: Uint8Array): string {
  let text = '';
  for (let i = 0; i < bytes.length; i += 2) {
    const pair = i + 1 < bytes.length;
    const value = pair ? (bytes[i] as number) * 256 + (bytes[i + 1] as number) : (bytes[i] as number);
    text += `${ALPHABET[value % 45]}${ALPHABET[Math.floor(value / 45) % 45]}`;
    if (pair) text += ALPHABET[Math.floor(value / 2025)];
  }
  return text;
}

/** Decodes the bytes, or returns null where the text is not base45 (alphabet, length, or a group beyond its bytes). Total. */
export function base45Decode(text: string): Uint8Array | null {
  if (text.length % 3 === 1) return null;
  const bytes = new Uint8Array(Math.floor(text.length / 3) * 2 + (text.length % 3 === 2 ? 1 : 0));
  let at = 0;
  for (let i = 0; i < text.length; i += 3) {
    const c = DIGITS.get(text[i] as string);
    const d = DIGITS.get(text[i + 1] as string);
    if (c === undefined || d === undefined) return null;
    if (i + 2 === text.length) {
      const value = c + d * 45;
      if (value > 0xff) return null;
      bytes[at++] = value;
      continue;
    }
    const e = DIGITS.get(text[i + 2] as string);
    if (e === undefined) return null;
    const value = c + d * 45 + e * 2025;
    if (value > 0xffff) return null;
    bytes[at++] = value >> 8;
    bytes[at++] = value & 0xff;
  }
  return bytes;
}
