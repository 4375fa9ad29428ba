/**
 * Reads tickets from a file, one after the other, with their line numbers: CSV (with a header) or JSON
 * Lines. Never holds more than a piece of the file. The only file that imports csv-parse.
 */
import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { parse } from 'csv-parse';
import type { FieldProblem } from './fields.ts';

export type SourceFormat = 'csv' | 'jsonl';
/** A record as it stands in the file, or why it can't be read. Lines count from 1. */
export type SourceRecord =
  | { readonly line: number; readonly raw: Readonly<Record<string, unknown>> }
  | { readonly line: number; readonly problem: FieldProblem };

/** A longer line or record is refused, in bytes. */
const MAX_RECORD_BYTES = 64 * 1024;
/** How much of a file is looked at to see what it is, in bytes. */
const PEEK_BYTES = 16 * 1024;

/** The file can't be used at all: it isn't there, is empty, or has no usable header. */
export class SourceError extends Error {
  override name = 'SourceError';
}

export interface TicketSource {
  readonly format: SourceFormat;
  /** Of a CSV: its columns, in order. */
  readonly columns: readonly string[];
  readonly sizeBytes: number;
  records(): AsyncGenerator<SourceRecord>;
}

/** Looks at the file's beginning. Throws SourceError with what to mend. */
export async function openTicketSource(path: string, format?: SourceFormat): Promise<TicketSource> {
  const handle = await open(path).catch((error: NodeJS.ErrnoException) => {
    throw new SourceError(`${path}: ${error.code === 'ENOENT' ? 'there is no such file' : error.message}`);
  });
  let start: string;
  let sizeBytes: number;
  try {
    sizeBytes = (await handle.stat()).size;
    const buffer = Buffer.alloc(PEEK_BYTES);
    start = buffer
      .subarray(0, (await handle.read(buffer, 0, PEEK_BYTES, 0)).bytesRead)
      .toString('utf8')
      .replace(/^\ufeff/, '');
  } catch (error) {
    throw new SourceError(`${path}: ${(error as Error).message}`);
  } finally {
    await handle.close();
  }
  if (start.trim() === '') throw new SourceError(`${path}: the file is empty`);
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
  return { format: kind, columns, sizeBytes, records: () => csvRecords(path, delimiter, columns) };
}

const columnName = (text: string): string =>
  text
    .trim()
    .replace(/^"(.*)"$/, '$1')
    .trim()
    .toLowerCase()
    .replace(/[\s-]+/g, '_');

async function* csvRecords(path: string, delimiter: string, columns: readonly string[]): AsyncGenerator<SourceRecord> {
  // What the parser skips comes out of order; it is handed on before the next good record.
  const skipped: SourceRecord[] = [];
  const parser = createReadStream(path).pipe(
    parse({
      delimiter,
      bom: true,
      from_line: 2,
      info: true,
      relax_column_count: true,
      skip_empty_lines: true,
      max_record_size: MAX_RECORD_BYTES,
      skip_records_with_error: true,
      trim: true,
      on_skip: (error) => {
        skipped.push({ line: Number((error as { lines?: number } | undefined)?.lines ?? 0), problem: csvProblem(error?.code) });
      },
    }),
  );
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
          mend: 'add or remove columns; a text that holds the separator needs quotes',
        },
      };
      continue;
    }
    yield { line: info.lines, raw: Object.fromEntries(columns.map((name, index) => [name, record[index]])) };
  }
  yield* skipped.splice(0);
}

/** The parser's own messages quote the line, which may hold a code. */
function csvProblem(code: string | undefined): FieldProblem {
  if (code === 'CSV_MAX_RECORD_SIZE') return { field: '(line)', what: `is longer than ${MAX_RECORD_BYTES} bytes`, mend: 'look for a quote that is not closed' };
  if (code?.includes('QUOTE') === true)
    return { field: '(line)', what: 'has a quote where none may stand', mend: 'double quotes inside a quoted text, and close it' };
  return { field: '(line)', what: 'cannot be read as CSV', mend: 'write the line anew' };
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
      if (!tooLong) yield { line: line + 1, problem: { field: '(line)', what: `is longer than ${MAX_RECORD_BYTES} bytes`, mend: 'write one ticket a line' } };
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
  if (trimmed.length > MAX_RECORD_BYTES)
    return { line, problem: { field: '(line)', what: `is longer than ${MAX_RECORD_BYTES} bytes`, mend: 'write one ticket a line' } };
  try {
    const raw: unknown = JSON.parse(trimmed);
    if (typeof raw === 'object' && raw !== null && !Array.isArray(raw)) return { line, raw: raw as Record<string, unknown> };
    return { line, problem: { field: '(line)', what: 'is not a JSON object', mend: 'write each ticket as {"ticket_id": …, "code": …}' } };
  } catch {
    // The parser's own message quotes the text, which may hold a code.
    return { line, problem: { field: '(line)', what: 'is not JSON', mend: 'write each ticket as {"ticket_id": …, "code": …} on one line' } };
  }
}
