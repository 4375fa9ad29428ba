/** Runs `import --ledger`: imports a dead gate's ledger. */
import { importLedger, LedgerFileError } from '../reconcile/import-ledger.ts';
import { CliError, EXIT, type Session } from './context.ts';

export interface LedgerImportCommandOptions {
  readonly gate?: string;
  readonly acceptBroken?: boolean;
  readonly json?: boolean;
}

/** Places that the message names; the others are in the alert and in the quarantine. */
const MAX_NAMED = 10;

export async function ledgerImportCommand(session: Session, path: string, options: LedgerImportCommandOptions): Promise<void> {
  const tenantId = await session.tenant();
  const done = await importLedger({ database: session.database, tenantId, path, gate: options.gate, acceptBroken: options.acceptBroken ?? false }).catch(
    (error: unknown) => {
      if (error instanceof LedgerFileError)
        throw new CliError(
          EXIT.failed,
          error.problems.length === 0
            ? error.message
            : `${error.message}\nkeep the gate's store and the file; --accept-broken takes the rows in and flags these places`,
        );
      throw error;
    },
  );
  if (options.json === true) session.terminal.out(`${JSON.stringify(done)}\n`);
  else
    session.terminal.out(
      `${done.gate}: ${done.stored} rows new, ${done.duplicates} were there already, of ${done.rows} (${done.epochs.map(({ epoch, from, upto }) => `epoch ${epoch}: ${from} to ${upto}`).join(', ')})\n`,
    );
  if (done.breaks.length > 0) session.terminal.err(`the chain is broken at ${places(done.breaks)}: flagged, the rows count\n`);
  if (done.forked.length > 0)
    throw new CliError(
      EXIT.failed,
      `${done.forked.length} rows do not follow what is stored (${places(done.forked)}): its store went back in time, or two machines wrote as ${done.gate}; these are kept apart and count for nothing`,
    );
}

const places = (keys: readonly (readonly [string, number, number])[]): string =>
  `${keys
    .slice(0, MAX_NAMED)
    .map(([, epoch, seq]) => `${epoch}/${seq}`)
    .join(', ')}${keys.length > MAX_NAMED ? ', …' : ''}`;
