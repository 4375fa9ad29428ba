/** Implements readers watch: shows the bytes of each reader, where its frames end, and what looks wrong. Nothing is stored. */
import type { ReaderBytesItem } from '../control/protocol.ts';
import { withGate } from './context.ts';
import type { CommonOptions } from './options.ts';

const CONTROL_NAMES: Readonly<Record<number, string>> = { 0: 'NUL', 2: 'STX', 3: 'ETX', 9: 'TAB', 10: 'LF', 13: 'CR', 29: 'GS', 127: 'DEL', 255: 'FF' };

/** Returns bytes as text: printable ones as they are, all others by name or in hexadecimal. */
export function bytesText(hex: string): string {
  return [...Buffer.from(hex, 'hex')]
    .map((byte) => {
      if (byte >= 0x20 && byte < 0x7f) return String.fromCharCode(byte);
      return `<${CONTROL_NAMES[byte] ?? byte.toString(16).toUpperCase().padStart(2, '0')}>`;
    })
    .join('');
}

/** Returns one line for an item. */
export function lineOf({ reader, kind, hex, detail, problem }: ReaderBytesItem): string {
  const text = hex === undefined ? (detail ?? '') : `${kind === 'frame' ? `${hex.length / 2} bytes  ` : ''}${bytesText(hex)}`;
  const verdict = problem === null || kind === 'bytes' ? '' : `   ! ${problem.cause}. ${problem.hint}`;
  return `${reader.padEnd(10)} ${kind.padEnd(8)} ${text}${verdict}`.trimEnd();
}

export async function watchReaders(options: CommonOptions): Promise<void> {
  await withGate(options, (gate) =>
    gate.call<void>('reader-bytes', {}, (item) => void process.stdout.write(`${options.json ? JSON.stringify(item) : lineOf(item as ReaderBytesItem)}\n`)),
  );
}
