/**
 * Passes a CSV on record by record, so that the parser never receives one without end. A line that is too long, or whose quote is never closed, is
 * replaced by an empty one (line numbers stay true) and reported once; later lines are read.
 */
import { isUtf8 } from 'node:buffer';
import { Transform, type TransformCallback } from 'node:stream';

export type LineProblem = 'too_long' | 'quote_open' | 'not_utf8';

const QUOTE = 0x22;
const NEWLINE = 0x0a;
const CARRIAGE_RETURN = 0x0d;
/** Open quotes of one file, and lines of one record that are read again for them; a file with more is no CSV, and fails. */
const MAX_OPEN_QUOTES = 10_000;

export interface GuardOptions {
  /** A longer record is left out, in bytes. */
  readonly maxBytes: number;
  /** Lines end with a carriage return alone. */
  readonly oldMac?: boolean;
  /** Returns whether several lines form one record. Otherwise the quote in its first line is open, and another line's closed it. */
  readonly isRecord: (text: string) => boolean;
  /** Receives each line that is left out, once; lines count from 1. */
  readonly onProblem: (line: number, problem: LineProblem) => void;
}

interface Line {
  readonly number: number;
  /** With its end. */
  readonly bytes: Buffer;
  readonly quotes: number;
}

/** Holds at most one record and one line. Ends with an error after 10,000 open quotes. */
export function guardRecords({ maxBytes, oldMac = false, isRecord, onProblem }: GuardOptions): Transform {
  const end = oldMac ? CARRIAGE_RETURN : NEWLINE;
  let number = 0;
  /** The beginning of an incomplete line. */
  let begun: Buffer[] = [];
  let begunBytes = 0;
  let dropping = false;
  let record: Line[] = [];
  let recordBytes = 0;
  let quotes = 0;
  let openQuotes = 0;

  function take(out: Transform, line: Line): void {
    record.push(line);
    recordBytes += line.bytes.length;
    quotes += line.quotes;
    if (quotes % 2 === 0) release(out);
    else if (recordBytes > maxBytes) giveUpFirst(out, recordBytes === line.bytes.length ? 'too_long' : 'quote_open');
  }
  function release(out: Transform): void {
    const text = Buffer.concat(record.map(({ bytes }) => bytes));
    const [first] = record;
    if (first !== undefined && text.length > maxBytes) {
      onProblem(first.number, 'too_long');
      for (let i = 0; i < record.length; i++) out.push(Buffer.of(end));
    } else if (first !== undefined && !isUtf8(text)) {
      onProblem(first.number, 'not_utf8');
      for (let i = 0; i < record.length; i++) out.push(Buffer.of(end));
    } else if (record.length > 1 && !isRecord(text.toString('utf8'))) return giveUpFirst(out, 'quote_open');
    else out.push(text);
    reset();
  }
  /** Rejects the first line of the record and reads the others again. */
  function giveUpFirst(out: Transform, problem: LineProblem): void {
    openQuotes += 1;
    if (openQuotes > MAX_OPEN_QUOTES) throw new Error(`${MAX_OPEN_QUOTES} lines have a quote that is not closed: is this CSV?`);
    const [first, ...rest] = record;
    reset();
    onProblem((first as Line).number, problem);
    out.push(Buffer.of(end));
    for (const line of rest) take(out, line);
  }
  function reset(): void {
    record = [];
    recordBytes = 0;
    quotes = 0;
  }
  /** Takes a piece of a line; `ended`: its last one. */
  function piece(out: Transform, bytes: Buffer, ended: boolean): void {
    begunBytes += bytes.length;
    if (begunBytes > maxBytes && !dropping) {
      dropping = true;
      onProblem(number + 1, 'too_long');
      begun = [];
    }
    if (!dropping) begun.push(bytes);
    if (!ended) return;
    number += 1;
    const whole = dropping ? Buffer.of(end) : Buffer.concat(begun);
    begun = [];
    begunBytes = 0;
    dropping = false;
    take(out, { number, bytes: whole, quotes: countOf(whole, QUOTE) });
  }

  return new Transform({
    transform(chunk: Buffer, _encoding, done: TransformCallback) {
      try {
        let from = 0;
        for (let at = chunk.indexOf(end); at >= 0; at = chunk.indexOf(end, from)) {
          piece(this, chunk.subarray(from, at + 1), true);
          from = at + 1;
        }
        if (from < chunk.length) piece(this, chunk.subarray(from), false);
        done();
      } catch (error) {
        done(error as Error);
      }
    },
    flush(done: TransformCallback) {
      try {
        if (begunBytes > 0) piece(this, Buffer.alloc(0), true);
        while (record.length > 0) giveUpFirst(this, 'quote_open');
        done();
      } catch (error) {
        done(error as Error);
      }
    },
  });
}

function countOf(bytes: Buffer, byte: number): number {
  let count = 0;
  for (let at = bytes.indexOf(byte); at >= 0; at = bytes.indexOf(byte, at + 1)) count += 1;
  return count;
}
