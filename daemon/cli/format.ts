/** Numbers and times in words, for people at a terminal. */
import { shownLine } from '../../contract/text.ts';

export function age(seconds: number): string {
  if (seconds < 1) return 'under a second';
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7_200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3_600)} h`;
  return `${Math.round(seconds / 86_400)} days`;
}

export const ageOf = (timestamp: string, nowMs = Date.now()): string => age(Math.max(0, nowMs - Date.parse(timestamp)) / 1000);

/** HH:MM:SS of this machine's time. */
export const clockTime = (timestamp: string): string => new Date(timestamp).toTimeString().slice(0, 8);

export const plural = (count: number, one: string, many = `${one}s`): string => `${count} ${count === 1 ? one : many}`;

/** Columns as wide as their widest cell. */
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
