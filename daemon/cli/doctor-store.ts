/** Checks for doctor that the ledger is complete and reaches the cloud. Asks the running gate, else reads a copy. */
import { existsSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { Config } from '../config/load.ts';
import type { GateStatus } from '../control/protocol.ts';
import { LEDGER_FILE, ledgerBytes, ledgersOf, openOfflineLedger } from '../store/offline-reader.ts';
import { StoreError } from '../store/sqlite.ts';
import { type Check, fail, ok, warn } from './check-result.ts';
import { withGate } from './context.ts';
import { CliError } from './exit-codes.ts';
import { age, plural } from './format.ts';
import { allRows, verifyChain } from './ledger.ts';
import type { CommonOptions } from './options.ts';
import { backlogText } from './status.ts';

/** Most rows, the newest, whose chain doctor checks; `ledger verify` checks all. */
const CHECKED_ROWS = 2_000;
/** Largest database, in bytes, that doctor copies; it does not read a larger one. */
const MAX_COPIED_BYTES = 256 * 1024 * 1024;
/** Age of the backlog, in s, above which doctor warns while the broker is online. */
const OLD_BACKLOG_S = 600;

export async function ledgerChecks(config: Config, options: CommonOptions, running: GateStatus | null, occupied: boolean): Promise<Check[]> {
  const checks = running !== null ? await ofRunning(options, running) : occupied ? [] : ofFile(join(config.store.path, LEDGER_FILE));
  try {
    for (const file of ledgersOf(config.store.path).quarantine)
      checks.push(
        warn('ledger', `${basename(file)} is quarantined as corrupt`, 'see its contents: stile-gate ledger recover; replace an SD card that corrupts files'),
      );
  } catch {
    // The disk check reports a fault of the folder.
  }
  return checks;
}

/**
 * Returns the row after which the check begins: one more than it counts, because a row's hash is checked with that of the row before it. In a
 * young epoch that is the end of the epoch before, so that its first row is checked as well. null: from the oldest row.
 */
export function beforeChecked({ epoch, last_seq }: Pick<GateStatus['ledger'], 'epoch' | 'last_seq'>): readonly [epoch: number, seq: number] | null {
  if (last_seq > CHECKED_ROWS + 1) return [epoch, last_seq - CHECKED_ROWS - 1];
  return epoch > 1 ? [epoch - 1, Number.MAX_SAFE_INTEGER - 1] : null;
}

async function ofRunning(options: CommonOptions, status: GateStatus): Promise<Check[]> {
  const { ledger, uplink } = status;
  const checks: Check[] = [];
  try {
    const result = await withGate(options, async (gate) => {
      const chain = verifyChain(status.gate);
      for await (const row of allRows(gate, beforeChecked(ledger))) if (!chain.add(row)) break;
      return chain.result();
    });
    checks.push(
      result.ok
        ? ok('ledger', result.rows === 0 ? 'has just begun' : `the newest ${plural(result.rows, 'row')}: none missing, none changed`)
        : fail('ledger', String(result.problem), 'keep the SD card; stile-gate ledger export, and ask the cloud what it has'),
    );
  } catch (error) {
    if (!(error instanceof CliError)) throw error;
    checks.push(fail('ledger', `cannot be read: ${error.message}`, "see the alert disk and the gate's journal"));
  }
  const waits = backlogText(status);
  checks.push(
    uplink.online && (ledger.backlog_oldest_s ?? 0) > OLD_BACKLOG_S
      ? warn('backlog', `${waits}, though the broker is online`, "is the cloud's ingest running? GET /gates shows what it has")
      : ok('backlog', waits),
  );
  if (!ledger.usage_complete)
    checks.push(
      warn('usage', 'usage of other gates is incomplete: the policy usage_lost decides', 'make broker and cloud reachable: the gate fetches it by itself'),
    );
  return checks;
}

function ofFile(path: string): Check[] {
  if (!existsSync(path)) return [];
  if (ledgerBytes(path) > MAX_COPIED_BYTES) return [ok('ledger', `${Math.round(ledgerBytes(path) / 1_048_576)} MB, not read while the gate is not running`)];
  try {
    const offlineLedger = openOfflineLedger(path);
    try {
      let [rows, waiting, oldest] = [0, 0, ''];
      for (const row of offlineLedger.rows()) {
        rows++;
        if (row.acked) continue;
        waiting++;
        if (oldest === '') oldest = String(row.entry.ts ?? '');
      }
      const since = oldest === '' ? '' : `, the oldest ${age(Math.max(0, Date.now() - Date.parse(oldest)) / 1000)} old`;
      return [
        offlineLedger.unreadable() > 0
          ? fail(
              'ledger',
              `${plural(offlineLedger.unreadable(), 'row')} cannot be read or were changed`,
              'start the gate: it quarantines the database and goes on; keep the SD card',
            )
          : ok('ledger', `${plural(rows, 'row')}: none missing, none changed`),
        ok(
          'backlog',
          waiting === 0 ? 'all of it acknowledged by the cloud' : `${plural(waiting, 'row')} not acknowledged yet${since}: sent when the gate runs`,
        ),
        ...offlineLedger.manifests().map((one) => ok('tickets', `${one.eventId}: version ${one.overlayVersion}, judged when the gate runs`)),
      ];
    } finally {
      offlineLedger.close();
    }
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    return [warn('ledger', `cannot be read: ${error.fault.cause}`, "run this as the gate's user, or with sudo")];
  }
}
