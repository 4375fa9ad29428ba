/**
 * Reads the scans of a disconnected scanner one by one. The fields that prove an event (id, time, result) must be readable; every other field is
 * used where it is valid, left out otherwise, and named in the answer: an invalid field removes no admission.
 */
import { createHash } from 'node:crypto';
import { OfflineScan } from '../../contract/http.ts';
import { Direction, EventId } from '../../contract/ids.ts';
import { MAX_TEXT_CHARS, MAX_TIME_MS, MAX_UNITS, MIN_TIME_MS } from '../../contract/limits.ts';
import { describeIssue } from '../../contract/schema-errors.ts';
import { cutText } from '../../contract/text.ts';

/** Assumed error of a scanner's clock, in ms either way: phones and tablets set theirs by the network. Overlaps within it are flagged. */
export const SCANNER_CLOCK_BOUND_MS = 5_000;
/** A scan further in the future than this (ms), or before that day, proves an unset clock: it counts at its arrival, and is flagged. */
const MAX_AHEAD_MS = 24 * 3_600_000;
const FIRST_DAY_MS = Date.UTC(2020, 0);
/** A scan between that day and this age (ms) may have been counted before its key was purged (scan_keys_kept_for): it is not counted again. */
const MAX_AGE_MS = 366 * 24 * 3_600_000;
/** For those: the clock that they share, and the uncertainty of their time, in ms either way (it orders nothing). */
const UNCLOCKED = { bootId: 'unclocked', boundMs: 2_147_483_647 } as const;
const MAX_SCAN_ID_CHARS = 64;

export interface Item {
  readonly index: number;
  readonly scan: OfflineScan;
  readonly key: string;
  /** As the scanner sends it; stored so. */
  readonly scannedAt: Date;
  /** Latest time of the scan: a time in the future counts as now. */
  readonly atMs: number;
  readonly clock: { readonly bootId: string; readonly boundMs: number };
  readonly flags: readonly string[];
  /** Fields that were left out or cut, for the answer. */
  readonly remarks: readonly string[];
}

/** Reads a scan, or returns its error. */
export function readScan(given: unknown, index: number, device: string, nowMs: number): Item | string {
  const { fields, remarks, scanKey } = usable(given);
  const read = OfflineScan.safeParse(fields);
  if (!read.success) {
    const issue = read.error.issues[0];
    return `scans.${[index, ...(issue?.path ?? [])].map(String).join('.')}: ${issue === undefined ? 'is wrong' : describeIssue(issue)}`;
  }
  const scan = read.data;
  const scannedMs = Date.parse(scan.scanned_at);
  if (Number.isNaN(scannedMs)) return `scans.${index}.scanned_at: is no time that there is`;
  const plausible = scannedMs >= FIRST_DAY_MS && scannedMs <= nowMs + MAX_AHEAD_MS;
  if (plausible && scannedMs < nowMs - MAX_AGE_MS) return `scans.${index}.scanned_at: is more than a year ago: set the scanner's clock`;
  return {
    index,
    scan,
    key: scanKey === null ? `at ${scan.ticket_id} ${scannedMs} ${scan.result}` : `id ${scanKey}`,
    scannedAt: new Date(Math.min(Math.max(scannedMs, MIN_TIME_MS), MAX_TIME_MS)),
    atMs: plausible ? Math.min(scannedMs, nowMs) : nowMs,
    clock: plausible ? { bootId: device, boundMs: SCANNER_CLOCK_BOUND_MS } : UNCLOCKED,
    flags: plausible ? [] : ['clock_untrusted'],
    remarks: plausible ? remarks : [...remarks, "scanned_at: is not plausible, so the scan counts as of now: set the scanner's clock"],
  };
}

/** Returns the fields that are valid, or that can be converted. */
function usable(given: unknown): { readonly fields: unknown; readonly remarks: readonly string[]; readonly scanKey: string | null } {
  if (typeof given !== 'object' || given === null || Array.isArray(given)) return { fields: given, remarks: [], scanKey: null };
  const { reason, scan_count, scan_id, event_id, direction, units, ...rest } = given as Readonly<Record<string, unknown>>;
  const fields: Record<string, unknown> = { ...rest };
  const remarks: string[] = [];
  const time = typeof rest['scanned_at'] === 'string' ? isoTime(rest['scanned_at']) : null;
  if (time !== null) fields['scanned_at'] = time;
  /** null counts as absent. */
  const take = (name: string, value: unknown, fits: boolean, wanted: string) => {
    if (value === undefined || value === null) return;
    if (fits) fields[name] = value;
    else remarks.push(`${name}: is left out, it must be ${wanted}`);
  };
  const between = (value: unknown, least: number, most: number) => Number.isSafeInteger(value) && (value as number) >= least && (value as number) <= most;
  const text = typeof reason === 'number' || typeof reason === 'boolean' ? String(reason) : reason;
  if (typeof text === 'string') {
    fields['reason'] = cutText(text, MAX_TEXT_CHARS);
    if (fields['reason'] !== text) remarks.push(`reason: is cut to ${MAX_TEXT_CHARS} characters that can be kept`);
  } else take('reason', text, false, 'a text');
  take('scan_count', scan_count, between(scan_count, 0, Number.MAX_SAFE_INTEGER), 'a whole number from 0');
  take('units', units, between(units, 1, MAX_UNITS), `a whole number from 1 to ${MAX_UNITS}`);
  take('direction', direction, Direction.safeParse(direction).success, 'in or out');
  take('event_id', event_id, EventId.safeParse(event_id).success, 'the id of an event');
  const id = typeof scan_id === 'number' ? String(scan_id) : scan_id === '' ? undefined : scan_id;
  const plainId = typeof id === 'string' && id.length <= MAX_SCAN_ID_CHARS && id === cutText(id, MAX_SCAN_ID_CHARS);
  take('scan_id', id, plainId, `a text of 1 to ${MAX_SCAN_ID_CHARS} characters`);
  // An id that cannot be stored still distinguishes scans.
  const scanKey = typeof id !== 'string' ? null : plainId ? id : `sha256 ${createHash('sha256').update(JSON.stringify(id)).digest('hex')}`;
  return { fields, remarks, scanKey };
}

/** Matches a date and time with an offset or Z, in the long or the short form of ISO 8601. */
const ISO_TIME = /^(\d{4})-?(\d\d)-?(\d\d)[Tt ](\d\d):?(\d\d)(?::?(\d\d)(?:[.,](\d{1,9}))?)?\s?(?:([Zz])|([+-]\d\d):?(\d\d)?)$/;

/** Parses as `Date.parse` does; null for other texts. */
function isoTime(text: string): string | null {
  const match = ISO_TIME.exec(text);
  if (match === null) return null;
  const [, year, month, day, hour, minute, second = '00', fraction = '0', zulu, offset, offsetMinutes = '00'] = match;
  const zone = zulu === undefined ? `${offset}:${offsetMinutes}` : 'Z';
  return `${year}-${month}-${day}T${hour}:${minute}:${second}.${fraction.padEnd(3, '0').slice(0, 3)}${zone}`;
}
