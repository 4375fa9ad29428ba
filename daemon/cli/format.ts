/** Formats numbers and times as text for a terminal. */
import { shownLine } from '../../contract/text.ts';

export function age(seconds: number): string {
  if (seconds < 1) return 'under a second';
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7_200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3_600)} h`;
  return `${Math.round(seconds / 86_400)} days`;
}

export const ageOf = (timestamp: string, nowMs = Date.now()): string => age(Math.max(0, nowMs - Date.parse(timestamp)) / 1000);

/** Returns HH:MM:SS of this machine with its zone: an explanation beside it has the event's. */
export function clockTime(timestamp: string): string {
  const at = new Date(timestamp);
  return `${at.toTimeString().slice(0, 8)} ${zoneOf(at)}`;
}

/** Returns date and time of this machine with its zone. */
export function dayTime(timestamp: string): string {
  const at = new Date(timestamp);
  const two = (number: number) => String(number).padStart(2, '0');
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${clockTime(timestamp)}`;
}

/** Returns the zone: UTC, UTC+2 or UTC-3:30. */
function zoneOf(at: Date): string {
  const minutes = -at.getTimezoneOffset();
  if (minutes === 0) return 'UTC';
  const [hours, rest] = [Math.floor(Math.abs(minutes) / 60), Math.abs(minutes) % 60];
  return `UTC${minutes < 0 ? '-' : '+'}${hours}${rest === 0 ? '' : `:${String(rest).padStart(2, '0')}`}`;
}

export const plural = (count: number, one: string, many = `${one}s`): string => `${count} ${count === 1 ? one : many}`;

/** Returns rows in columns, each as wide as its widest cell. */
export function columns(given: readonly (readonly string[])[]): string {
  const rows = given.map((row) => row.map(shownLine));
  const widths: number[] = [];
  for (const row of rows)
    row.forEach((cell, index) => {
      widths[index] = Math.max(widths[index] ?? 0, cell.length);
    });
  return rows
    .map((row) =>
      row
        .map((cell, index) => (index === row.length - 1 ? cell : cell.padEnd(widths[index] ?? 0)))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}
