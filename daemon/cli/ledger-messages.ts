/** The form in which rows leave a gate as a file. */
import { once } from 'node:events';
import type { Writable } from 'node:stream';
import { MAX_LEDGER_ENTRIES, MAX_PAYLOAD_BYTES, SCHEMA_VERSION } from '../../contract/limits.ts';
import type { LedgerRow } from '../control/protocol.ts';

/** Of a ledger message, beside its entries. */
const ENVELOPE_BYTES = 512;

/** Writes rows as ledger messages, one a line, as `stile-cloud import --ledger` takes them. Waits for a slow reader. Returns the number of rows. */
export async function writeMessages(gate: string, rows: AsyncIterable<LedgerRow> | Iterable<LedgerRow>, to: Writable): Promise<number> {
  let entries: LedgerRow['entry'][] = [];
  let bytes = 0;
  let epoch = 0;
  let count = 0;
  const write = async () => {
    if (entries.length > 0 && !to.write(`${JSON.stringify({ schema: SCHEMA_VERSION, gate, epoch, entries })}\n`)) await once(to, 'drain');
    entries = [];
    bytes = 0;
  };
  for await (const row of rows) {
    const size = Buffer.byteLength(JSON.stringify(row.entry)) + 1;
    if (row.epoch !== epoch || entries.length >= MAX_LEDGER_ENTRIES || bytes + size > MAX_PAYLOAD_BYTES - ENVELOPE_BYTES) await write();
    epoch = row.epoch;
    entries.push(row.entry);
    bytes += size;
    count++;
  }
  await write();
  return count;
}
