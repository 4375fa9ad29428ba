/**
 * A page of the ledger's rows, read without SQLite: where it is not known which bit of a page is wrong, its rows' hashes tell.
 *
 * Format: https://sqlite.org/fileformat2.html#b_tree_pages (a leaf of a table; each cell an id and a record of NULL and a text)
 */
import { hash as digest } from 'node:crypto';
import { entryHash } from '../../contract/hash-chain.ts';

const LEAF = 13;
const PAGE_HEAD_BYTES = 8;
/** A record's type of a text of n bytes is 13 + 2 n. */
const EMPTY_TEXT = 13;

const sha256Text = (text: string): string => digest('sha256', text, 'hex');

export interface PageRow {
  readonly id: number;
  readonly text: Buffer;
}

/**
 * Rows of a page that holds nothing else and was only ever appended to: cell on cell from the page's end, ids without a gap. null: it is
 * something else, or damaged, or rows were pruned from it, or one is longer than a page. What lies between the pointers and the cells is not looked at.
 */
export function rowsOfPage(page: Buffer): PageRow[] | null {
  const count = page.readUInt16BE(3);
  if (page[0] !== LEAF || page.readUInt16BE(1) !== 0 || page[7] !== 0 || count === 0 || PAGE_HEAD_BYTES + 2 * count > page.length) return null;
  const rows: PageRow[] = [];
  let end = page.length;
  for (let n = 0; n < count; n++) {
    const at = page.readUInt16BE(PAGE_HEAD_BYTES + 2 * n);
    if (at < PAGE_HEAD_BYTES + 2 * count || at >= end) return null;
    const row = rowOfCell(page.subarray(at, end));
    if (row === null || (n > 0 && row.id !== (rows[n - 1] as PageRow).id + 1)) return null;
    rows.push(row);
    end = at;
  }
  return page.readUInt16BE(5) === end ? rows : null;
}

/** A cell that ends where the bytes end. */
function rowOfCell(bytes: Buffer): PageRow | null {
  const payload = varint(bytes, 0);
  const id = payload && varint(bytes, payload.end);
  if (!payload || !id || payload.value !== bytes.length - id.end) return null;
  const record = bytes.subarray(id.end);
  const head = varint(record, 0);
  const type = record[1] === 0 ? varint(record, 2) : null;
  if (!head || !type || head.value !== type.end || type.value !== EMPTY_TEXT + 2 * (record.length - head.value)) return null;
  return { id: id.value, text: record.subarray(head.value) };
}

function varint(bytes: Buffer, from: number): { readonly value: number; readonly end: number } | null {
  let value = 0;
  // Eight bytes of seven bits: ids are never so large that they need the ninth.
  for (let at = from; at < Math.min(from + 8, bytes.length); at++) {
    const byte = bytes[at] as number;
    value = value * 128 + (byte & 127);
    if (byte < 128) return { value, end: at + 1 };
  }
  return null;
}

/** The hash that a row says it has; null: it says none. */
export function hashOf(text: Buffer): string | null {
  const entry = parsed(text);
  return entry === null ? null : entry.hash;
}

/**
 * Does every row of a page follow from the one before it? `all`: the first one as well, from the row that `hashOfRow` finds on another page.
 * `but the first`: that one is not found, or an epoch begins here. `no`: one does not, or it is no page of rows.
 */
export function rowsFollow(page: Buffer, hashOfRow: (id: number) => string | null): 'all' | 'but the first' | 'no' {
  const rows = rowsOfPage(page);
  const first = rows?.[0];
  if (!rows || first === undefined) return 'no';
  const before = hashOfRow(first.id - 1);
  let previous: Entry | null = null;
  let open = before === null;
  for (const { text } of rows) {
    const entry = parsed(text);
    if (entry === null) return 'no';
    const from: string | null = previous?.hash ?? before;
    // Another epoch begins: its first row follows from the gate's name.
    if (entry.seq === 1) open = true;
    else if (from !== null && ((previous !== null && entry.seq !== previous.seq + 1) || entryHash(sha256Text, from, entry) !== entry.hash)) return 'no';
    previous = entry;
  }
  return open ? 'but the first' : 'all';
}

type Entry = { readonly seq: number; readonly hash: string } & Readonly<Record<string, unknown>>;

function parsed(text: Buffer): Entry | null {
  try {
    const entry = JSON.parse(text.toString()) as Entry;
    return typeof entry?.seq === 'number' && typeof entry.hash === 'string' ? entry : null;
  } catch {
    return null;
  }
}
