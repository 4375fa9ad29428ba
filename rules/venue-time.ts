/**
 * Time as the venue's clocks on the wall show it, across their changes. Inputs and outputs are Unix ms;
 * the zone is an IANA name, checked where an event is written.
 */
import type { Opening } from './policy.ts';

const zoned = (atMs: number, timeZone: string): Temporal.ZonedDateTime => Temporal.Instant.fromEpochMilliseconds(Math.trunc(atMs)).toZonedDateTimeISO(timeZone);

/** The local day, as `2027-05-01`. Throws on a zone that does not exist. */
export const localDay = (atMs: number, timeZone: string): string => zoned(atMs, timeZone).toPlainDate().toString();

/**
 * The local days of several times. Neighbours mostly share a day, so each day's bounds are worked out once in a row: a ticket that was
 * used a hundred times must not cost a hundred conversions (bench/rules.ts).
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

/** The beginning of the next local day (not always midnight: some zones change their clocks then). */
export const nextDayMs = (atMs: number, timeZone: string): number => zoned(atMs, timeZone).add({ days: 1 }).startOfDay().epochMilliseconds;

const pad = (value: number): string => String(value).padStart(2, '0');

/**
 * `19:30`, with the date before it (`2027-05-01 19:30`) when that is not the local day of `nowMs`.
 * `up` rounds to the next minute, for a time to come back at. Total: an unknown zone is read as UTC.
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

/** Days ahead in which the next opening is looked for: every weekly opening begins within them. */
const LOOK_AHEAD_DAYS = 8;

/**
 * The first time from `fromMs` on at which a weekly schedule is open, grace included; `fromMs` itself where it
 * is open then; null: never. An hour that the clocks skip begins when they have moved, one that they repeat
 * begins the first time and ends the first time.
 */
export function nextOpenMs(schedule: readonly Opening[], fromMs: number, timeZone: string, graceBeforeMs: number, graceAfterMs: number): number | null {
  const today = zoned(fromMs, timeZone).toPlainDate();
  // Grace after a night's opening may still hold days later.
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

/** Clock time today, in the zone of the venue, as Unix ms. */
export const clockTodayMs = (nowMs: number, clock: string, timeZone: string): number => clockMs(zoned(nowMs, timeZone).toPlainDate(), clock, timeZone);

/** 1 Monday to 7 Sunday. */
export const isoWeekday = (atMs: number, timeZone: string): number => zoned(atMs, timeZone).dayOfWeek;

/** An ISO date and time as Unix ms; without an offset, by the venue's clocks. Throws where it is none. */
export function dateTimeMs(text: string, timeZone: string): number {
  if (/(Z|[+-]\d\d:?\d\d)$/.test(text)) return Temporal.Instant.from(text).epochMilliseconds;
  return Temporal.PlainDateTime.from(text).toZonedDateTime(timeZone).epochMilliseconds;
}
