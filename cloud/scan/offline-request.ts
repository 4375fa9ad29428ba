/**
 * Reads the scans of a disconnected scanner one by one. The fields that prove an event (id, time, result) must be readable; every other field is
 * used where it is valid, left out otherwise, and named in the answer: an invalid field removes no admission.
 */
import { createHash } from 'node:crypto';
import { OfflineScan } from '../../contract/http.ts';
import { Direction, EventId, splitGateName } from '../../contract/ids.ts';
import { MAX_TEXT_CHARS, MAX_TIME_MS, MAX_UNITS, MIN_TIME_MS } from '../../contract/limits.ts';
import { describeIssue } from '../../contract/schema-errors.ts';
import { cutText } from '../../contract/text.ts';

/** Assumed error of a scanner's clock, in ms either way: phones and tablets set theirs by the network. Overlaps within it are flagged. */
export const SCANNER_CLOCK_BOUND_MS = 5_000;
/** A scan before that day proves an unset clock: it counts at its arrival, and is flagged. */
const FIRST_DAY_MS = Date.UTC(2020, 0);
/** A scan between that day and this age (ms) may have been counted before its key was purged (scan_keys_kept_for): it is not counted again. */
const MAX_AGE_MS = 366 * 24 * 3_600_000;
/** Offsets of a scanner's clock are measured to this step, in ms: scans of one step share one clock. The message's way is within it. */
const CLOCK_STEP_MS = 5_000;
/** A scan later than the cloud's clock by more than this, in ms, proves that the scanner's clock is ahead: it counts at its arrival, and is flagged. */
const MAX_LATE_MS = SCANNER_CLOCK_BOUND_MS + CLOCK_STEP_MS;
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
  readonly clock: { readonly bootId: string; readonly boundMs: number; readonly offsetMs?: number };
  readonly flags: readonly string[];
  /** Fields that were left out or cut, for the answer. */
  readonly remarks: readonly string[];
  /** The claim that this scan settles: it was sent before, without its event. */
  readonly claim?: readonly [epoch: number, seq: number];
}

/** A scanner's clock, as its request shows it. */
export interface ScannerClock {
  readonly bootId: string;
  readonly boundMs: number;
  /** The cloud's time minus the scanner's, in ms. */
  readonly offsetMs: number;
  /** The request carried the scanner's time; without it nothing is known about its clock. */
  readonly measured: boolean;
}

/**
 * Measures a scanner's clock by the time that it sends (`device_time`). The clock is named after its offset, so that scans of one session of the device
 * share it, and a clock that was set anew is another one. An unreadable time measures nothing.
 */
export function scannerClock(device: string, deviceTime: unknown, nowMs: number): ScannerClock {
  const deviceMs = typeof deviceTime === 'string' ? Date.parse(isoTime(deviceTime) ?? '') : Number.NaN;
  if (Number.isNaN(deviceMs)) return { bootId: device, boundMs: SCANNER_CLOCK_BOUND_MS, offsetMs: 0, measured: false };
  const offsetMs = Math.round((nowMs - deviceMs) / CLOCK_STEP_MS) * CLOCK_STEP_MS;
  if (offsetMs === 0) return { bootId: device, boundMs: SCANNER_CLOCK_BOUND_MS, offsetMs, measured: true };
  const seconds = `${offsetMs < 0 ? '' : '+'}${offsetMs / 1000}s`;
  return { bootId: cutText(`${splitGateName(device).gate}${seconds}`, 64), boundMs: SCANNER_CLOCK_BOUND_MS + CLOCK_STEP_MS / 2, offsetMs, measured: true };
}

/** Reads a scan, or returns its error. Its time is corrected by the scanner's clock; the key keeps the time as it was sent. */
export function readScan(given: unknown, index: number, clock: ScannerClock, nowMs: number): Item | string {
  const { fields, remarks, scanKey } = usable(given);
  const read = OfflineScan.safeParse(fields);
  if (!read.success) {
    const issue = read.error.issues[0];
    return `scans.${[index, ...(issue?.path ?? [])].map(String).join('.')}: ${issue === undefined ? 'is wrong' : describeIssue(issue)}`;
  }
  const scan = read.data;
  const scannedMs = Date.parse(scan.scanned_at);
  if (Number.isNaN(scannedMs)) return `scans.${index}.scanned_at: is no time that there is`;
  const correctedMs = scannedMs + clock.offsetMs;
  const plausible = correctedMs >= FIRST_DAY_MS && correctedMs <= nowMs + MAX_LATE_MS;
  if (plausible && correctedMs < nowMs - MAX_AGE_MS) return `scans.${index}.scanned_at: is more than a year ago: set the scanner's clock`;
  const wrong = clock.measured && Math.abs(clock.offsetMs) > SCANNER_CLOCK_BOUND_MS;
  return {
    index,
    scan,
    key: scanKey === null ? `at ${scan.ticket_id} ${scannedMs} ${scan.result}` : `id ${scanKey}`,
    scannedAt: new Date(Math.min(Math.max(scannedMs, MIN_TIME_MS), MAX_TIME_MS)),
    atMs: plausible ? Math.min(correctedMs, nowMs) : nowMs,
    clock: plausible ? { bootId: clock.bootId, boundMs: clock.boundMs, offsetMs: clock.offsetMs } : UNCLOCKED,
    flags: plausible && !wrong ? [] : ['clock_untrusted'],
    remarks: !plausible
      ? [...remarks, "scanned_at: is not plausible, so the scan counts as of now: set the scanner's clock"]
      : wrong
        ? [...remarks, `scanned_at: corrected by ${clock.offsetMs / 1000} s: set the scanner's clock`]
        : remarks,
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
