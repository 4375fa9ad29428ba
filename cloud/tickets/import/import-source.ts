/**
 * Reads tickets from a file, one after the other, with their line numbers: CSV (with a header) or JSON
 * Lines. Never holds more than a piece of the file. The only file that imports csv-parse.
 */
import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { parse } from 'csv-parse';
import { parse as parseText } from 'csv-parse/sync';
import type { FieldProblem } from '../ticket-fields.ts';
import { guardRecords, type LineProblem } from './csv-guard.ts';

export type SourceFormat = 'csv' | 'jsonl';
/** A record of the file, or its error. Lines count from 1. */
export type SourceRecord =
  | { readonly line: number; readonly raw: Readonly<Record<string, unknown>> }
  | { readonly line: number; readonly problem: FieldProblem };

/** A longer line or record is refused, in bytes. */
const MAX_RECORD_BYTES = 64 * 1024;
/** Bytes of a file that are read to recognise its format. */
const PEEK_BYTES = 16 * 1024;

/** The file can't be used at all: it isn't there, is empty, or has no usable header. */
export class SourceError extends Error {
  override name = 'SourceError';
}

export interface TicketSource {
  readonly format: SourceFormat;
  /** For a CSV: its columns, in order. */
  readonly columns: readonly string[];
  readonly sizeBytes: number;
  records(): AsyncGenerator<SourceRecord>;
}

/** Reads the file's beginning. Throws SourceError with the repair. */
export async function openTicketSource(path: string, format?: SourceFormat): Promise<TicketSource> {
  const handle = await open(path).catch((error: NodeJS.ErrnoException) => {
    throw new SourceError(
      `${path}: ${error.code === 'ENOENT' ? 'there is no such file' : error.code === 'EACCES' ? 'may not be read: look at its owner and mode' : error.message}`,
    );
  });
  let start: string;
  let sizeBytes: number;
  try {
    const stat = await handle.stat();
    if (stat.isDirectory()) throw new SourceError(`${path}: is a folder: name the file in it`);
    sizeBytes = stat.size;
    const buffer = Buffer.alloc(PEEK_BYTES);
    const peek = buffer.subarray(0, (await handle.read(buffer, 0, PEEK_BYTES, 0)).bytesRead);
    if (isUtf16(peek)) throw new SourceError(`${path}: is UTF-16 (Excel's "Unicode text"): save it as "CSV UTF-8", or turn it with iconv -f UTF-16 -t UTF-8`);
    start = peek.toString('utf8').replace(/^\ufeff/, '');
  } catch (error) {
    throw error instanceof SourceError ? error : new SourceError(`${path}: ${(error as Error).message}`);
  } finally {
    await handle.close();
  }
  if (start.trim() === '') throw new SourceError(`${path}: the file is empty: it needs a header such as ticket_id,code,tier,zone and a line for each ticket`);
  const kind = format ?? (start.trimStart().startsWith('{') ? 'jsonl' : 'csv');
  if (kind === 'jsonl') {
    if (start.trimStart().startsWith('[')) throw new SourceError(`${path}: a JSON list; write JSON Lines instead, one object a line (jq -c '.[]' does it)`);
    return { format: kind, columns: [], sizeBytes, records: () => jsonLines(path) };
  }
  const header = start.split(/\r?\n|\r/, 1)[0] as string;
  const delimiter = [',', ';', '\t'].reduce((best, candidate) => (header.split(candidate).length > header.split(best).length ? candidate : best));
  const columns = header.split(delimiter).map(columnName);
  if (!columns.includes('ticket_id'))
    throw new SourceError(
      `${path}:1: ticket_id: the first line names no such column (it names: ${columns.slice(0, 12).join(', ')}): begin the file with a header such as ticket_id,code,tier,zone`,
    );
  const twice = columns.find((name, index) => name !== '' && columns.indexOf(name) !== index);
  if (twice !== undefined) throw new SourceError(`${path}:1: ${twice}: the column stands there twice: remove one`);
  return { format: kind, columns, sizeBytes, records: () => csvRecords(path, delimiter, columns, /^[^\n]*\r(?!\n)/.test(start)) };
}

/** Recognises UTF-16 by its mark, or by a zero in every second byte of the first line. */
function isUtf16(bytes: Buffer): boolean {
  if (bytes.length >= 2 && (bytes.readUInt16BE(0) === 0xfeff || bytes.readUInt16BE(0) === 0xfffe)) return true;
  const head = bytes.subarray(0, 64);
  const zeros = [0, 0];
  for (const [at, byte] of head.entries()) if (byte === 0) zeros[at % 2] = (zeros[at % 2] as number) + 1;
  return head.length >= 4 && Math.max(...zeros) > head.length / 4 && Math.min(...zeros) === 0;
}

const columnName = (text: string): string =>
  text
    .trim()
    .replace(/^"(.*)"$/, '$1')
    .trim()
    .toLowerCase()
    .replace(/[\s-]+/g, '_');

async function* csvRecords(path: string, delimiter: string, columns: readonly string[], oldMac: boolean): AsyncGenerator<SourceRecord> {
  // Rejected lines come out of order; they are passed on before the next good record.
  const skipped: SourceRecord[] = [];
  let skippedLine = 0;
  const guard = guardRecords({
    maxBytes: MAX_RECORD_BYTES,
    oldMac,
    isRecord: (text) => isOneRecord(text, delimiter, columns.length),
    onProblem: (line, problem) => skipped.push({ line, problem: LINE_PROBLEMS[problem] }),
  });
  const file = createReadStream(path);
  const parser = parse({
    delimiter,
    bom: true,
    from_line: 2,
    info: true,
    relax_column_count: true,
    skip_empty_lines: true,
    skip_records_with_error: true,
    trim: true,
    on_skip: (error) => {
      const line = Number((error as { lines?: number } | undefined)?.lines ?? 0);
      // Once a line, however many errors it has.
      if (line !== skippedLine) skipped.push({ line, problem: csvProblem(error?.code) });
      skippedLine = line;
    },
  });
  file.on('error', (error) => guard.destroy(error));
  guard.on('error', (error) => parser.destroy(error));
  file.pipe(guard).pipe(parser);
  for await (const item of parser as AsyncIterable<{ record: string[]; info: { lines: number } }>) {
    yield* skipped.splice(0);
    const { record, info } = item;
    if (record.length === 1 && record[0] === '') continue;
    if (record.length !== columns.length) {
      yield {
        line: info.lines,
        problem: {
          field: '(line)',
          what: `has ${record.length} columns, the header ${columns.length}`,
          hint: 'add or remove columns; a text that holds the separator needs quotes',
        },
      };
      continue;
    }
    yield { line: info.lines, raw: Object.fromEntries(columns.map((name, index) => [name, record[index]])) };
  }
  yield* skipped.splice(0);
}

const LINE_PROBLEMS: Readonly<Record<LineProblem, FieldProblem>> = {
  too_long: { field: '(line)', what: `is longer than ${MAX_RECORD_BYTES} bytes`, hint: 'write one ticket a line' },
  quote_open: { field: '(line)', what: 'has a quote that is not closed', hint: 'close it, or leave it out' },
  not_utf8: { field: '(line)', what: 'is not UTF-8', hint: 'save the file as UTF-8' },
};

function isOneRecord(text: string, delimiter: string, columns: number): boolean {
  try {
    const records = parseText(text, { delimiter, relax_column_count: true, trim: true }) as string[][];
    return records.length === 1 && records[0]?.length === columns;
  } catch {
    return false;
  }
}

/** The parser's own messages quote the line, which may hold a code. */
function csvProblem(code: string | undefined): FieldProblem {
  if (code?.includes('QUOTE') === true)
    return { field: '(line)', what: 'has a quote where none may stand', hint: 'double quotes inside a quoted text, and close it' };
  return { field: '(line)', what: 'cannot be read as CSV', hint: 'write the line anew' };
}

async function* jsonLines(path: string): AsyncGenerator<SourceRecord> {
  const decoder = new TextDecoder('utf-8');
  let rest = '';
  let line = 0;
  let tooLong = false;
  for await (const piece of createReadStream(path)) {
    rest += decoder.decode(piece as Buffer, { stream: true });
    const lines = rest.split('\n');
    rest = lines.pop() as string;
    for (const text of lines) {
      line++;
      if (tooLong) {
        tooLong = false;
        continue;
      }
      const record = jsonRecord(text, line);
      if (record !== null) yield record;
    }
    if (rest.length > MAX_RECORD_BYTES) {
      if (!tooLong) yield { line: line + 1, problem: LINE_PROBLEMS.too_long };
      tooLong = true;
      rest = '';
    }
  }
  rest += decoder.decode();
  const last = tooLong ? null : jsonRecord(rest, line + 1);
  if (last !== null) yield last;
}

function jsonRecord(text: string, line: number): SourceRecord | null {
  const trimmed = text.replace(/^\ufeff/, '').trim();
  if (trimmed === '') return null;
  if (trimmed.length > MAX_RECORD_BYTES) return { line, problem: LINE_PROBLEMS.too_long };
  try {
    const raw: unknown = JSON.parse(trimmed);
    if (typeof raw === 'object' && raw !== null && !Array.isArray(raw)) return { line, raw: raw as Record<string, unknown> };
    return { line, problem: { field: '(line)', what: 'is not a JSON object', hint: 'write each ticket as {"ticket_id": …, "code": …}' } };
  } catch {
    // The parser's own message quotes the text, which may hold a code.
    return { line, problem: { field: '(line)', what: 'is not JSON', hint: 'write each ticket as {"ticket_id": …, "code": …} on one line' } };
  }
}
