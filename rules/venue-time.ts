/**
 * Converts times to and from the venue's local time, across clock changes. Inputs and outputs are Unix ms; the zone is an IANA name, checked where
 * an event is written.
 */
import type { Opening } from './policy.ts';

const zoned = (atMs: number, timeZone: string): Temporal.ZonedDateTime => Temporal.Instant.fromEpochMilliseconds(Math.trunc(atMs)).toZonedDateTimeISO(timeZone);

/** Returns the local day, as `2027-05-01`. Throws for an unknown zone. */
export const localDay = (atMs: number, timeZone: string): string => zoned(atMs, timeZone).toPlainDate().toString();

/**
 * Returns the local days of several times. Neighbours mostly share a day, so the bounds of a day are computed once for a run of them: a ticket with
 * a hundred entries must not cost a hundred conversions (bench/rules.ts).
 */
export function localDays(times: readonly number[], timeZone: string): string[] {
  let day = '';
  let startMs = Number.POSITIVE_INFINITY;
  let endMs = Number.NEGATIVE_INFINITY;
  return times.map((atMs) => {
    if (atMs >= startMs && atMs < endMs) return day;
    const start = zoned(atMs, timeZone).startOfDay();
    day = start.toPlainDate().toString();
    startMs = start.epochMilliseconds;
    endMs = start.add({ days: 1 }).startOfDay().epochMilliseconds;
    return day;
  });
}

/** Returns the beginning of the next local day (not always midnight: some zones change their clocks then). */
export const nextDayMs = (atMs: number, timeZone: string): number => zoned(atMs, timeZone).add({ days: 1 }).startOfDay().epochMilliseconds;

const pad = (value: number): string => String(value).padStart(2, '0');

/**
 * Returns `19:30`, with the date before it (`2027-05-01 19:30`) when that is not the local day of `nowMs`. `up` rounds to the next minute, for the
 * time of a return. Total: an unknown zone is read as UTC.
 */
export function showTime(atMs: number, nowMs: number, timeZone: string, round: 'down' | 'up' = 'down'): string {
  const minuteMs = 60_000;
  const shownMs = (round === 'up' ? Math.ceil(atMs / minuteMs) : Math.floor(atMs / minuteMs)) * minuteMs;
  try {
    const at = zoned(shownMs, timeZone);
    const time = `${pad(at.hour)}:${pad(at.minute)}`;
    const day = at.toPlainDate();
    return day.equals(zoned(nowMs, timeZone).toPlainDate()) ? time : `${day.toString()} ${time}`;
  } catch {
    return timeZone === 'UTC' ? '?' : showTime(atMs, nowMs, 'UTC', round);
  }
}

/** Days ahead in which the next opening is searched: every weekly opening begins within them. */
const LOOK_AHEAD_DAYS = 8;

/**
 * Returns the first time from `fromMs` on at which a weekly schedule is open, grace included: `fromMs` itself where it is open then, null where it
 * never opens. An hour that the clocks skip begins after the change; an hour that they repeat begins the first time and ends the first time.
 */
export function nextOpenMs(schedule: readonly Opening[], fromMs: number, timeZone: string, graceBeforeMs: number, graceAfterMs: number): number | null {
  const today = zoned(fromMs, timeZone).toPlainDate();
  // The grace of a night's opening may still hold days later.
  const lookBackDays = 1 + Math.ceil(graceAfterMs / 86_400_000);
  const lookAheadDays = LOOK_AHEAD_DAYS + Math.ceil(graceBeforeMs / 86_400_000);
  let best: number | null = null;
  for (let offset = -lookBackDays; offset <= lookAheadDays; offset++) {
    const day = today.add({ days: offset });
    for (const opening of schedule) {
      if (!opening.days.includes(day.dayOfWeek)) continue;
      const begin = clockMs(day, opening.from, timeZone) - graceBeforeMs;
      const end = clockMs(opening.until <= opening.from ? day.add({ days: 1 }) : day, opening.until, timeZone) + graceAfterMs;
      if (fromMs >= end) continue;
      const open = Math.max(begin, fromMs);
      if (best === null || open < best) best = open;
    }
    if (best === fromMs) break;
  }
  return best;
}

/** `24:00` is the beginning of the next day. */
function clockMs(day: Temporal.PlainDate, clock: string, timeZone: string): number {
  if (clock === '24:00') return day.add({ days: 1 }).toZonedDateTime(timeZone).epochMilliseconds;
  return day.toZonedDateTime({ timeZone, plainTime: Temporal.PlainTime.from(clock) }).epochMilliseconds;
}

/** Returns a clock time of today in the venue's zone, as Unix ms. */
export const clockTodayMs = (nowMs: number, clock: string, timeZone: string): number => clockMs(zoned(nowMs, timeZone).toPlainDate(), clock, timeZone);

/** Returns the ISO weekday, 1 Monday to 7 Sunday. */
export const isoWeekday = (atMs: number, timeZone: string): number => zoned(atMs, timeZone).dayOfWeek;

/** Returns an ISO date and time as Unix ms; without an offset, in the venue's zone. Throws for any other text. */
export function dateTimeMs(text: string, timeZone: string): number {
  if (/(Z|[+-]\d\d:?\d\d)$/.test(text)) return Temporal.Instant.from(text).epochMilliseconds;
  return Temporal.PlainDateTime.from(text).toZonedDateTime(timeZone).epochMilliseconds;
}
