/**
 * Opens the store's parts; a damaged ledger is quarantined first, and a new one takes over what can be read.
 */
import { join } from 'node:path';
import { MAX_TEXT_CHARS } from '../../contract/limits.ts';
import { vectorOf } from '../../contract/references.ts';
import { cutText } from '../../contract/text.ts';
import { readPolicies } from '../../rules/policy.ts';
import type { Keyring } from '../../signing/keyring.ts';
import { createStanding, type Standing } from '../store/durable-state.ts';
import { type Ledger, openLedger, parseEntry, type Stamp, TAKING_OVER } from '../store/ledger.ts';
import { type ManifestChecks, type Manifests, openManifests } from '../store/manifest-store.ts';
import { LEDGER_FILE, ledgersOf } from '../store/offline-reader.ts';
import { quarantineFile } from '../store/quarantine-file.ts';
import { createResubmission, type Resubmission } from '../store/resubmission.ts';
import { openRowCopy, type RowCopy, readRowCopy } from '../store/row-copy.ts';
import { type Salvage, salvage } from '../store/salvage.ts';
import { StoreError, storeError } from '../store/sqlite.ts';
import { createOutbox, type Outbox } from '../store/unacked-rows.ts';
import { openUsageStore, type UsageStore } from '../store/usage-store.ts';
import { noteBody } from './ledger-entries.ts';
import { importSalvaged } from './rebuild-store.ts';
import type { DeciderEngineOptions, Latest } from './store-options.ts';

/** Own rows taken into usage at a time. */
const CATCH_UP_ROWS = 1_000;

export interface Parts {
  readonly ledger: Ledger;
  readonly outbox: Outbox;
  readonly resubmission: Resubmission;
  readonly standing: Standing;
  readonly usage: UsageStore;
  readonly manifests: Manifests;
  readonly rowCopy: RowCopy;
}

/**
 * Opens the store; a damaged ledger is quarantined first, and what was begun before a power cut is brought to its end. Throws StoreError where
 * a person must fix something.
 */
export async function openStore(options: DeciderEngineOptions, keyring: Keyring, latest: Latest): Promise<Parts> {
  try {
    return await openOnce(options, keyring, latest, null);
  } catch (error) {
    const known = damageOf(error);
    if (known === null) throw error;
    return rebuildStore(options, keyring, latest, known);
  }
}

/** Quarantines the damaged ledger, begins a new one above it, and takes over what can be read. */
export function rebuildStore(options: DeciderEngineOptions, keyring: Keyring, latest: Latest, cause: StoreError): Promise<Parts> {
  quarantineFile(join(options.path, LEDGER_FILE), latest.stamp.wallMs);
  return openOnce(options, keyring, latest, cause);
}

/** Returns the error as damage of the ledger's database; null: it is something else. */
function damageOf(error: unknown): StoreError | null {
  if (typeof (error as { code?: unknown } | null)?.code !== 'string') return null;
  const known = storeError('open the ledger', error);
  return known.damaged && known.file === 'ledger' ? known : null;
}

async function openOnce(options: DeciderEngineOptions, keyring: Keyring, latest: Latest, cause: StoreError | null): Promise<Parts> {
  // The newest holds what was still to be sent from those before it.
  const quarantined = ledgersOf(options.path).quarantine.at(-1) ?? null;
  let saved: Salvage | null = null;
  const salvageAll = (path: string): Salvage => salvage(path, readRowCopy(options.path, options.gate));
  const ledger = openLedger({
    path: join(options.path, LEDGER_FILE),
    name: options.gate,
    stamp: latest.stamp,
    first() {
      saved = quarantined === null ? null : salvageAll(quarantined);
      return { aboveEpoch: saved?.lastEpoch ?? 0, takingOver: saved !== null };
    },
  });
  try {
    const usage = openUsage(options, ledger, latest.stamp.wallMs);
    try {
      if (ledger.meta(TAKING_OVER) === '1' && quarantined !== null)
        await importSalvaged({ options, checks: checksOf(keyring, latest), latest, ledger, usage }, saved ?? salvageAll(quarantined), cause);
      return assemble(options, keyring, ledger, usage, latest);
    } catch (error) {
      usage.abandon();
      throw error;
    }
  } catch (error) {
    ledger.close();
    throw error;
  }
}

/** Reports a commit that was cut short: after a power cut it is none, and damage otherwise; the rows are named, because nothing tells which. */
function reportWalEnd(options: DeciderEngineOptions, ledger: Ledger, stamp: Stamp): void {
  const [epoch, seq] = [ledger.epoch(), ledger.lastSeq()];
  const detail = `the log ended in a commit that was cut short: it was never answered, unless the card is damaged; then rows from ${epoch}/${seq + 1} on are lost`;
  ledger.append([noteBody('fault', 'ledger', detail)], stamp);
  options.notice('ledger', detail);
}

const checksOf = (keyring: Keyring, latest: Latest): ManifestChecks => ({
  verify: (payload, carried) => keyring.verifyPayload(payload, carried, latest.stamp.trusted ? latest.stamp.wallMs : null),
  nowMs: () => (latest.stamp.trusted ? latest.stamp.wallMs : null),
  policyProblem(policies) {
    const read = readPolicies(policies);
    return read.ok ? null : cutText(read.problems.join('; '), MAX_TEXT_CHARS);
  },
});

/** Usage and the copy of the rows get own rows only after they were committed: where they have more than the ledger, its end was lost. */
function brokenEnd(name: string, epoch: number, from: number, to: number): StoreError {
  return new StoreError(
    {
      operation: `check the end of the ledger of ${name}`,
      cause: `rows ${epoch}/${from}–${to} were committed and are not there`,
      hint: 'The database is set aside under a dated name and a new epoch begins; keep the file, and look at the card.',
      healsItself: true,
    },
    'STORE_END',
    true,
  );
}

function assemble(options: DeciderEngineOptions, keyring: Keyring, ledger: Ledger, usage: UsageStore, latest: Latest): Parts {
  const lastSeq = ledger.lastSeqOf(ledger.epoch()) ?? 0;
  const resubmission = createResubmission(ledger);
  const outbox = createOutbox(ledger, resubmission);
  const rowCopy = openRowCopy(options.path, ledger, outbox.ackedSeq);
  const committed = Math.max(usage.ownMark(ledger.epoch()), rowCopy.end?.epoch === ledger.epoch() ? rowCopy.end.seq : 0);
  if (committed > lastSeq) throw brokenEnd(ledger.name, ledger.epoch(), lastSeq + 1, committed);
  if (ledger.endTruncated) reportWalEnd(options, ledger, latest.stamp);
  for (const own of ledger.epochs()) {
    for (let from = Math.max(own.firstSeq, usage.ownMark(own.epoch) + 1); from <= own.lastSeq; from += CATCH_UP_ROWS) {
      for (const row of ledger.read(own.epoch, from, CATCH_UP_ROWS)) usage.applyOwn(own.epoch, parseEntry(ledger, own.epoch, row));
    }
  }
  usage.doubtOwn(resubmission.left() > 0);
  if (usage.forgotten()) {
    ledger.setMeta('usage_lost', '1');
    options.notice('ledger', 'rows of peers that were known are not here any more (a power cut, or damage): they are fetched again');
  }
  const parts: Parts = {
    ledger,
    usage,
    outbox,
    resubmission,
    rowCopy,
    standing: createStanding(ledger),
    manifests: openManifests({
      ledger,
      folder: join(options.path, 'manifests'),
      release: options.release ?? null,
      checks: checksOf(keyring, latest),
      onUnusable: (_event, message) => options.notice('manifest', message),
      onSwitched: () => takeUpto(parts),
    }),
  };
  takeUpto(parts);
  return parts;
}

/** Opens usage. It is derived: a damaged one is quarantined, and rows are read and fetched again. */
function openUsage(options: DeciderEngineOptions, ledger: Ledger, wallMs: number): UsageStore {
  const path = join(options.path, 'usage.sqlite');
  try {
    return openUsageStore(path, ledger.name);
  } catch (error) {
    if (!(error instanceof StoreError) || !error.damaged) throw error;
    // First, so that a power cut cannot leave usage empty and nobody told.
    ledger.setMeta('usage_lost', '1');
    const quarantined = quarantineFile(path, wallMs);
    options.notice('ledger', `${error.fault.cause}; usage was set aside as ${quarantined.slice(quarantined.lastIndexOf('/') + 1)} and is fetched again`);
    return openUsageStore(path, ledger.name);
  }
}

/** Manifests count ledgers up to a row: what is below needs no fetching; own rows that are counted and not here were lost. */
function takeUpto({ ledger, usage, manifests }: Parts): void {
  const uptos = manifests.current().map((event) => vectorOf(event.file.head.upto));
  usage.countFrom(uptos, (name, epoch) => name === ledger.name && ledger.lastSeqOf(epoch) !== null);
  if (ledger.meta('caught_up') !== undefined) return;
  const lostRows = uptos.some((upto) => {
    const own = upto[ledger.name];
    return own !== undefined && own[0] < ledger.epoch() && (ledger.lastSeqOf(own[0]) ?? 0) < own[1];
  });
  if (lostRows) ledger.setMeta('usage_lost', '1');
}
