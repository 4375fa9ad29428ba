/** Makes texts that every side can store: JSON, RFC 8785 and PostgreSQL hold no half of a surrogate pair, PostgreSQL no U+0000. */

/**
 * Returns the beginning of a text, of at most so many UTF-16 units (what schemas count). Cuts between characters, never within one; what is half
 * a character already becomes U+FFFD, and U+0000 is left out. Total.
 */
export function cutText(text: string, maxChars: number): string {
  const whole = text.isWellFormed() && !text.includes('\0') ? text : text.toWellFormed().replaceAll('\0', '');
  if (whole.length <= maxChars) return whole;
  const end = Math.max(0, Math.floor(maxChars));
  return whole.slice(0, end > 0 && isFirstHalf(whole.charCodeAt(end - 1)) ? end - 1 : end);
}

const isFirstHalf = (unit: number): boolean => unit >= 0xd800 && unit <= 0xdbff;

/** Deepest nesting that is copied; deeper values are left out. Our data is never deeper. */
const MAX_DEPTH = 16;

/**
 * Returns a copy of data that canonical JSON can hold: texts as `cutText` leaves them, numbers that JSON does not know and whatever else it cannot
 * say left out. For a row whose words cannot be written as they are. Total.
 */
export function plainData(value: unknown, maxChars: number, depth = 0): unknown {
  if (typeof value === 'string') return cutText(value, maxChars);
  if (typeof value === 'boolean' || value === null) return value;
  if (typeof value === 'number') return Number.isFinite(value) ? value : undefined;
  if (typeof value !== 'object' || depth >= MAX_DEPTH) return undefined;
  if (Array.isArray(value)) return value.map((part) => plainData(part, maxChars, depth + 1) ?? null);
  const parts = Object.entries(value).map(([key, part]) => [cutText(key, maxChars), plainData(part, maxChars, depth + 1)] as const);
  return Object.fromEntries(parts.filter(([, part]) => part !== undefined));
}

/** Matches controls of a terminal (C0 but tab and line feed, DEL, C1), line separators and changes of the writing direction. */
const UNSHOWABLE = /[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]/gu;

/**
 * Returns a text for a terminal: what others have written moves no cursor, colours nothing and hides nothing. Written as JSON writes it, so that JSON stays
 * JSON. Total.
 */
export const shownText = (text: string): string => text.replace(UNSHOWABLE, escaped);

/** Returns the same for one line or cell, without line breaks. */
export const shownLine = (text: string): string => shownText(text).replaceAll('\n', '\\n').replaceAll('\t', '\\t');

const escaped = (character: string): string => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;
