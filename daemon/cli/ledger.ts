/** Implements ledger ls, verify and export: reads the ledger through the running gate, a page at a time. */
import { createHash } from 'node:crypto';
import { entryHash, firstPredecessor } from '../../contract/hash-chain.ts';
import type { GateClient } from '../control/client.ts';
import type { GateStatus, LedgerRow } from '../control/protocol.ts';
import { withGate } from './context.ts';
import { CliError, EXIT, print } from './exit-codes.ts';
import { columns, dayTime, plural } from './format.ts';
import { writeMessages } from './ledger-messages.ts';
import type { CommonOptions } from './options.ts';

/** Rows of one page: the gate's bound. */
const PAGE_ROWS = 500;

/** Returns every kept row in order. */
export async function* allRows(gate: GateClient, after: readonly [number, number] | null = null): AsyncGenerator<LedgerRow> {
  for (let from = after; ; ) {
    const page: LedgerRow[] = [];
    await gate.call('ledger', { ...(from === null ? {} : { after: from }), limit: PAGE_ROWS }, (item) => page.push(item as LedgerRow));
    yield* page;
    const last = page.at(-1);
    if (last === undefined || page.length < PAGE_ROWS) return;
    from = [last.epoch, last.entry.seq];
  }
}

export async function list(options: CommonOptions & { readonly last: number; readonly kind?: string }): Promise<void> {
  const rows = await withGate(options, async (gate) => {
    const { ledger } = await gate.call<GateStatus>('status');
    // Reads older epochs only when the current one has too few rows.
    const fits = options.kind === undefined && ledger.last_seq > options.last;
    const kept: LedgerRow[] = [];
    for await (const row of allRows(gate, fits ? [ledger.epoch, ledger.last_seq - options.last] : null)) {
      if (options.kind !== undefined && row.entry.kind !== options.kind) continue;
      kept.push(row);
      if (kept.length > options.last) kept.shift();
    }
    return kept;
  });
  print(options.json, rows, () =>
    rows.length === 0
      ? 'no rows'
      : columns(
          rows.map((row) => [
            `${row.epoch}/${row.entry.seq}`,
            dayTime(String(row.entry.ts)),
            row.entry.kind,
            `${rowText(row.entry)}${row.conflict === undefined ? '' : ` — ${row.conflict}`}`,
          ]),
        ),
  );
}

const HIDDEN = new Set(['seq', 'kind', 'ts', 'hash', 'boot_id', 'boottime_ms', 'clock_offset_ms', 'clock_bound_ms', 'seen', 'facts']);

/** Formats the fields of a row; a refusal by its explanation. */
function rowText(entry: LedgerRow['entry']): string {
  if (entry.kind === 'refusal') return `${entry.reason}: ${entry.explanation}${entry.ticket_id === undefined ? '' : ` (ticket ${entry.ticket_id})`}`;
  return Object.entries(entry)
    .filter(([key]) => !HIDDEN.has(key))
    .map(([key, value]) => `${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`)
    .join(' ');
}

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');

export interface Verification {
  readonly ok: boolean;
  readonly rows: number;
  readonly epochs: readonly { readonly epoch: number; readonly from_seq: number; readonly upto_seq: number }[];
  /** The first fault found. */
  readonly problem: string | null;
}

/** Checks numbers and hashes. An epoch may begin above 1 when older rows were pruned; its first row's predecessor is then absent. */
export function verifyChain(gate: string): { add(row: LedgerRow): boolean; result(): Verification } {
  const epochs: { epoch: number; from_seq: number; upto_seq: number }[] = [];
  let rows = 0;
  let previous: string | null = null;
  let problem: string | null = null;
  return {
    add({ epoch, entry }) {
      let current = epochs.at(-1);
      if (current === undefined || current.epoch !== epoch) {
        if (current !== undefined && current.epoch > epoch) problem = `epoch ${epoch} comes after epoch ${current.epoch}`;
        current = { epoch, from_seq: entry.seq, upto_seq: entry.seq - 1 };
        epochs.push(current);
        previous = entry.seq === 1 ? firstPredecessor(sha256, gate, epoch) : null;
      }
      if (problem === null && entry.seq !== current.upto_seq + 1) problem = `row ${epoch}/${current.upto_seq + 1} is missing`;
      if (problem === null && previous !== null && entryHash(sha256, previous, entry) !== entry.hash)
        problem = `row ${epoch}/${entry.seq} was changed, or the one before it`;
      if (problem !== null) return false;
      current.upto_seq = entry.seq;
      previous = entry.hash;
      rows++;
      return true;
    },
    result: () => ({ ok: problem === null, rows, epochs, problem }),
  };
}

export async function verify(options: CommonOptions): Promise<void> {
  const result = await withGate(options, async (gate) => {
    const { gate: name } = await gate.call<GateStatus>('status');
    const chain = verifyChain(name);
    for await (const row of allRows(gate)) if (!chain.add(row)) break;
    return chain.result();
  });
  print(options.json, result, () =>
    result.ok ? `${plural(result.rows, 'row')}, none missing, none changed` : `after ${plural(result.rows, 'good row')}: ${result.problem}`,
  );
  if (!result.ok) {
    if (options.json === true) process.exitCode = EXIT.failed;
    else
      throw new CliError(
        EXIT.failed,
        'verifying the ledger failed',
        'keep the SD card; export the rows (stile-gate ledger export), and ask the cloud what it has',
      );
  }
}

export async function exportRows(options: CommonOptions & { readonly store?: string }): Promise<void> {
  if (options.store !== undefined) return (await import('./ledger-recover.ts')).exportOffline(options.store, options);
  await withGate(options, async (gate) => {
    const { gate: name } = await gate.call<GateStatus>('status');
    await writeMessages(name, allRows(gate), process.stdout);
  }).catch((error: unknown) => {
    if (!(error instanceof CliError) || error.exitCode !== EXIT.unreachable) throw error;
    throw new CliError(
      error.exitCode,
      `exporting the ledger failed: ${error.message}; nothing was written`,
      'read the store of a stopped gate: stile-gate ledger export --store /var/lib/stile (its store.path)',
    );
  });
}
