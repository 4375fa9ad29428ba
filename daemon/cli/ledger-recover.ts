/** Reads rows of databases that no gate has open, for ledger recover and ledger export --store. Changes nothing in the store. */
import { createWriteStream, existsSync } from 'node:fs';
import { basename, join } from 'node:path';
import { finished } from 'node:stream/promises';
import { GateName } from '../../contract/ids.ts';
import { openSafeFile, type SafeFile, UnsafePlaceError } from '../../runtime/safe-file.ts';
import { loadConfig } from '../config/load.ts';
import type { LedgerRow } from '../control/protocol.ts';
import { ledgerBytes, ledgersOf, type OfflineLedger, openOfflineLedger } from '../store/offline-reader.ts';
import { StoreError } from '../store/sqlite.ts';
import { requireConfig } from './context.ts';
import { CliError, EXIT, print } from './exit-codes.ts';
import { columns, plural } from './format.ts';
import { writeMessages } from './ledger-messages.ts';
import type { CommonOptions } from './options.ts';

interface OfflineLedgerOptions extends CommonOptions {
  readonly gate?: string;
}

/** Summary of one database. */
export interface Recovered {
  readonly file: string;
  readonly gate: string | null;
  readonly bytes: number;
  readonly epochs: readonly number[];
  readonly rows: number;
  readonly unacknowledged: number;
  readonly unreadable: number;
}

/** Writes every kept row of a dead gate's store to standard output. */
export async function exportOffline(folder: string, options: OfflineLedgerOptions): Promise<void> {
  const { present, quarantine } = foldersLedgers(folder);
  if (present === null)
    throw new CliError(
      EXIT.failed,
      `there is no ledger in ${folder}`,
      quarantine.length > 0 ? 'there are quarantined ones: stile-gate ledger recover --store' : "name the gate's store folder, such as /mnt/sd/var/lib/stile",
    );
  const unreadable = await withOfflineLedger(present, options, async (offlineLedger) => {
    const count = await writeMessages(nameOf(offlineLedger, options), rowsOf(offlineLedger, false), process.stdout);
    if (count === 0 && offlineLedger.gate === null)
      throw new CliError(EXIT.failed, `nothing in ${present} can be read`, 'keep the SD card as it is; ask the cloud what it has');
    return offlineLedger.unreadable();
  });
  for (const file of quarantine) process.stderr.write(`note: ${basename(file)} lies beside it: stile-gate ledger recover --store ${folder}\n`);
  if (unreadable > 0)
    throw new CliError(
      EXIT.failed,
      `${plural(unreadable, 'row')} could not be read; all others are written`,
      'keep the SD card: the cloud may have those rows',
    );
}

export async function recover(
  files: readonly string[],
  options: OfflineLedgerOptions & { readonly store?: string; readonly export?: string; readonly unacknowledged?: boolean },
): Promise<void> {
  const folder = options.store ?? requireConfig(options.config).store.path;
  const { quarantine } = foldersLedgers(folder);
  const wanted = files.length === 0 ? quarantine : files.map((file) => (existsSync(file) ? file : join(folder, file)));
  for (const file of wanted) if (!existsSync(file)) throw new CliError(EXIT.failed, `there is no ${file}`, 'stile-gate ledger recover lists them');
  const file = options.export === undefined ? null : beginExport(options.export);
  try {
    const { found, exported } = await readAll(wanted, file, options);
    file?.commit();
    print(options.json, { store: folder, databases: found, exported: file === null ? null : exported }, () =>
      summaryText(folder, found, options.export, exported),
    );
  } finally {
    file?.abandon();
  }
}

function beginExport(path: string): SafeFile {
  try {
    return openSafeFile(path, { mode: 0o640 });
  } catch (error) {
    throw notWritten(path, error);
  }
}

const notWritten = (path: string | undefined, error: unknown) =>
  new CliError(
    EXIT.failed,
    `${path} could not be written (${error instanceof UnsafePlaceError ? error.message : (error as NodeJS.ErrnoException).code})`,
    'name another file with --export',
  );

async function readAll(
  wanted: readonly string[],
  target: SafeFile | null,
  options: OfflineLedgerOptions & { readonly export?: string; readonly unacknowledged?: boolean },
): Promise<{ readonly found: readonly Recovered[]; readonly exported: number }> {
  const out = target === null ? null : createWriteStream('', { fd: target.fd, autoClose: false });
  const failed = out === null ? null : finished(out);
  // Handled where it is awaited, below.
  failed?.catch(() => undefined);
  const found: Recovered[] = [];
  let exported = 0;
  for (const file of wanted) {
    found.push(
      await withOfflineLedger(file, options, async (offlineLedger) => {
        const counts = count(offlineLedger);
        if (out !== null && counts.rows > 0) {
          if (out.errored) await failed;
          exported += await writeMessages(nameOf(offlineLedger, options), rowsOf(offlineLedger, options.unacknowledged === true), out);
        }
        return { file, gate: offlineLedger.gate, bytes: ledgerBytes(file), epochs: offlineLedger.epochs, ...counts };
      }),
    );
  }
  out?.end();
  await failed?.catch((error: unknown) => {
    throw notWritten(options.export, error);
  });
  return { found, exported };
}

function summaryText(folder: string, found: readonly Recovered[], file: string | undefined, exported: number): string {
  if (found.length === 0) return `no database is quarantined in ${folder}`;
  const table = columns([
    ['file', 'gate', 'rows', 'not acknowledged', 'not readable', 'epochs'],
    ...found.map((one) => [
      basename(one.file),
      one.gate ?? 'not readable',
      String(one.rows),
      String(one.unacknowledged),
      String(one.unreadable),
      one.epochs.join(', ') || 'none',
    ]),
  ]);
  const next =
    file !== undefined
      ? `${plural(exported, 'row')} written to ${file}; next: stile-cloud import --ledger ${file}`
      : 'the gate has taken over and sends by itself what it could read of the rows not acknowledged; --export <file> writes them for stile-cloud import --ledger';
  return `${table}\n${next}`;
}

function count(offlineLedger: OfflineLedger): { rows: number; unacknowledged: number; unreadable: number } {
  let [rows, unacknowledged] = [0, 0];
  for (const row of offlineLedger.rows()) {
    rows++;
    if (!row.acked) unacknowledged++;
  }
  return { rows, unacknowledged, unreadable: offlineLedger.unreadable() };
}

function* rowsOf(offlineLedger: OfflineLedger, unacknowledgedOnly: boolean): Iterable<LedgerRow> {
  for (const { epoch, acked, entry } of offlineLedger.rows()) if (!acked || !unacknowledgedOnly) yield { epoch, entry };
}

function nameOf(offlineLedger: OfflineLedger, options: OfflineLedgerOptions): string {
  const name = options.gate ?? offlineLedger.gate ?? configuredGate(options);
  if (name === undefined || !GateName.safeParse(name).success)
    throw new CliError(EXIT.usage, `whose ledger ${offlineLedger.path} is cannot be read`, 'say it with --gate <site>/<gate>');
  return name;
}

function configuredGate(options: OfflineLedgerOptions): string | undefined {
  const config = loadConfig(options.config, process.env, { skipFiles: true });
  return config.ok ? config.config.gate : undefined;
}

async function withOfflineLedger<T>(path: string, options: OfflineLedgerOptions, work: (offlineLedger: OfflineLedger) => Promise<T>): Promise<T> {
  let offlineLedger: OfflineLedger;
  try {
    offlineLedger = openOfflineLedger(path, options.gate ?? configuredGate(options));
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    if (/BUSY|LOCKED/.test(error.code))
      throw new CliError(EXIT.tryAgain, 'a gate is running on this store', 'leave out --store: the running gate is then asked');
    throw new CliError(EXIT.failed, `${path} cannot be read: ${error.fault.cause}`, 'use sudo; where the temporary folder is full, name another in TMPDIR');
  }
  try {
    return await work(offlineLedger);
  } finally {
    offlineLedger.close();
  }
}

function foldersLedgers(folder: string): ReturnType<typeof ledgersOf> {
  try {
    return ledgersOf(folder);
  } catch (error) {
    throw new CliError(EXIT.failed, `${folder} cannot be read (${(error as NodeJS.ErrnoException).code})`, 'name the store folder with --store, or use sudo');
  }
}
