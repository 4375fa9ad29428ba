/**
 * Closes gaps in peers' ledgers: reads the cloud's copy from the decider's vector on, page by page, and passes it to the decider as
 * ledger messages, to the end.
 */
import { splitGateName } from '../../contract/ids.ts';
import { MAX_LEDGER_ENTRIES, MAX_PAYLOAD_BYTES, SCHEMA_VERSION } from '../../contract/limits.ts';
import type { Decider } from '../ports.ts';
import { type CloudClient, problemOf } from './cloud-client.ts';
import { createJsonItems } from './json-stream.ts';

/** Largest row of an answer, in bytes: an entry of at most 256 KiB with gate and epoch; a larger one fails the fetch. */
const MAX_ROW_BYTES = MAX_PAYLOAD_BYTES + 1024;
/** Most bytes of entries in one message; further ones go into the next. */
const MAX_ENTRIES_BYTES = MAX_PAYLOAD_BYTES - 1024;

export interface SiteLedgerOptions {
  readonly gate: string;
  readonly client: CloudClient;
  readonly decider: Pick<Decider, 'applyPeer' | 'vector' | 'caughtUp'>;
}

interface Group {
  readonly gate: string;
  readonly epoch: number;
  readonly entries: string[];
  bytes: number;
}

/** Reads to the end. Returns the number of rows. Rejects with the cause; applied rows stay applied. */
export async function readSiteLedger(options: SiteLedgerOptions, signal: AbortSignal): Promise<number> {
  let rows = 0;
  let before = '';
  for (;;) {
    const vector = JSON.stringify(await options.decider.vector());
    if (vector === before) throw new Error('the cloud announces more rows but returns none');
    before = vector;
    const page = await readPage(options, vector, signal);
    rows += page.rows;
    if (!page.more) break;
  }
  await options.decider.caughtUp();
  return rows;
}

async function readPage(options: SiteLedgerOptions, vector: string, signal: AbortSignal): Promise<{ readonly rows: number; readonly more: boolean }> {
  const { site } = splitGateName(options.gate);
  const response = await options.client.get(`/sites/${site}/ledger?after=${encodeURIComponent(vector)}`, { accept: 'application/json', signal });
  if (response.status !== 200) throw new Error(`${(await problemOf(response)).text}`);
  const items = createJsonItems(['rows.*', 'more'], MAX_ROW_BYTES);
  let group: Group | null = null;
  let rows = 0;
  let more: boolean | null = null;
  const flush = async () => {
    if (group !== null)
      await options.decider.applyPeer({
        ledger: group.gate,
        payload: Buffer.from(`{"schema":${SCHEMA_VERSION},"gate":${JSON.stringify(group.gate)},"epoch":${group.epoch},"entries":[${group.entries.join(',')}]}`),
      });
    group = null;
  };
  try {
    for await (const chunk of response.body) {
      for (const { path, bytes } of items.push(chunk)) {
        const value: unknown = JSON.parse(Buffer.from(bytes).toString('utf8'));
        if (path === 'more') {
          more = value === true;
          continue;
        }
        const { gate, epoch, entry } = value as { gate: string; epoch: number; entry: unknown };
        const text = JSON.stringify(entry);
        const size = Buffer.byteLength(text) + 1;
        const open = group as Group | null;
        if (open === null || open.gate !== gate || open.epoch !== epoch || open.entries.length >= MAX_LEDGER_ENTRIES || open.bytes + size > MAX_ENTRIES_BYTES) {
          await flush();
          group = { gate, epoch, entries: [], bytes: 0 };
        }
        (group as unknown as Group).entries.push(text);
        (group as unknown as Group).bytes += size;
        rows += 1;
      }
    }
  } finally {
    response.body.destroy();
  }
  items.end();
  await flush();
  if (more === null) throw new Error("the cloud's answer lacks `more`");
  return { rows, more };
}
