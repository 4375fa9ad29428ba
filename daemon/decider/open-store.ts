/**
 * The store's parts, put together and, where a file is damaged, put together again from what can be read.
 */
import { basename, join } from 'node:path';
import { MAX_TEXT_CHARS } from '../../contract/limits.ts';
import type { PublicKey } from '../../contract/manifest.ts';
import { cutText } from '../../contract/text.ts';
import { readPolicies } from '../../rules/policy.ts';
import type { Keyring } from '../../signing/keyring.ts';
import { createStanding, type Standing } from '../store/durable-state.ts';
import { type Ledger, openLedger, parseEntry, type Stamp, TAKING_OVER } from '../store/ledger.ts';
import { type ManifestChecks, type Manifests, openManifests, recoverManifests } from '../store/manifest-store.ts';
import { LEDGER_FILE, ledgersOf } from '../store/offline-reader.ts';
import { quarantineFile } from '../store/quarantine-file.ts';
import { openRowCopy, type RowCopy, readRowCopy } from '../store/row-copy.ts';
import { type Salvage, salvage } from '../store/salvage.ts';
import { createSalvagedRows } from '../store/salvaged-rows.ts';
import { StoreError, storeError } from '../store/sqlite.ts';
import { createOutbox, type Outbox } from '../store/unacked-rows.ts';
import { openUsageStore, type UsageStore } from '../store/usage-store.ts';
import { noteBody } from './ledger-entries.ts';

/** Ranges of lost rows named in one text. */
const MAX_RANGES_TOLD = 8;
/** Own rows taken into usage at a time. */
const CATCH_UP_ROWS = 1_000;

export interface DeciderEngineOptions {
  /** Folder of the store. */
  readonly path: string;
  /** `<site>/<gate>`. */
  readonly gate: string;
  /** Pinned at enrolment. */
  readonly verifyKeys: readonly PublicKey[];
  /** Names the program that runs, exactly; null or absent: nobody knows, so what is kept is checked with every start. */
  readonly release?: string | null;
  /** Things a person should know that no call can return: damage, unusable files. Never holds a code. */
  readonly notice: (what: string, detail: string) => void;
}

/** The time that came with the latest call. */
export interface Latest {
  stamp: Stamp;
}

export interface Parts {
  readonly ledger: Ledger;
  readonly outbox: Outbox;
  readonly standing: Standing;
  readonly usage: UsageStore;
  readonly manifests: Manifests;
  readonly rowCopy: RowCopy;
}

/**
 * Opens the store; a damaged ledger is quarantined first, and what was begun before a power cut is brought to its end. Throws StoreError where
 * a person must mend something.
 */
export async function openStore(options: DeciderEngineOptions, keyring: Keyring, latest: Latest): Promise<Parts> {
  try {
    return await openOnce(options, keyring, latest, null);
  } catch (error) {
    const known = damageOf(error);
    if (known === null) throw error;
    return rebuild(options, keyring, latest, known);
  }
}

/** Sets the damaged ledger aside, begins a new one above it, and takes over what can be read. */
export function rebuild(options: DeciderEngineOptions, keyring: Keyring, latest: Latest, cause: StoreError): Promise<Parts> {
  quarantineFile(join(options.path, LEDGER_FILE), latest.stamp.wallMs);
  return openOnce(options, keyring, latest, cause);
}

/** The error as damage of the ledger's database; null: it is something else. */
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
        await importSalvaged({ options, keyring, latest, ledger, usage }, saved ?? salvageAll(quarantined), cause);
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

/**
 * Rows of epochs that were quarantined which are neither acknowledged nor saved: as `epoch/from–to` as far as anything here knows of them, and
 * as `any from epoch/seq on` where what could not be read may have held rows behind the newest that is known.
 */
function unreadable(saved: Salvage, usage: UsageStore, name: string): { readonly ranges: string[]; readonly behind: string | null } {
  const newest = usage.vector()[name];
  const epochs = new Set([...saved.acked.map(({ epoch }) => epoch), ...saved.rows.map(({ epoch }) => epoch), ...(newest === undefined ? [] : [newest[0]])]);
  let behind: string | null = null;
  const ranges = [...epochs]
    .sort((a, b) => a - b)
    .flatMap((epoch) => {
      const here = new Set(saved.rows.filter((row) => row.epoch === epoch).map(({ seq }) => seq));
      const acked = saved.acked.find((one) => one.epoch === epoch)?.seq ?? 0;
      const last = Math.max(
        acked,
        usage.ownMark(epoch),
        saved.rows.findLast((row) => row.epoch === epoch)?.seq ?? 0,
        saved.ends.find((one) => one.epoch === epoch)?.seq ?? 0,
      );
      const ranges: string[] = [];
      for (let from = acked + 1; from <= last; from++) {
        if (here.has(from)) continue;
        let to = from;
        while (to < last && !here.has(to + 1)) to++;
        ranges.push(`${epoch}/${from}–${to}`);
        from = to;
      }
      behind = saved.unread > 0 || saved.lastEpoch === 0 ? `any from ${epoch}/${last + 1} on` : null;
      return ranges;
    });
  return { ranges, behind };
}

/** What a person is told of the rows that are lost; empty: none are, as far as anything here knows. */
function gapOf(saved: Salvage, usage: UsageStore, name: string): string {
  const { ranges, behind } = unreadable(saved, usage, name);
  const more = ranges.length - MAX_RANGES_TOLD;
  const told = more > 0 ? [...ranges.slice(0, MAX_RANGES_TOLD), `${more} more ranges up to ${ranges.at(-1)}`] : ranges;
  if (behind !== null) told.push(behind);
  // Not even its epochs can be read, and usage knows of no own row.
  else if (saved.lastEpoch === 0) told.push('any that the cloud has not');
  return told.length === 0 ? '' : `, could not be read: rows ${told.join(', ')}`;
}

/** Right after a power cut, and damage otherwise: nobody can tell which, so it is said, and of which rows. */
function reportWalEnd(options: DeciderEngineOptions, ledger: Ledger, stamp: Stamp): void {
  const [epoch, seq] = [ledger.epoch(), ledger.lastSeq()];
  const detail = `the log ended in a commit that was cut short: nobody was told of it, unless the card is damaged; then rows from ${epoch}/${seq + 1} on are lost`;
  ledger.append([noteBody('fault', 'ledger', detail)], stamp);
  options.notice('ledger', detail);
}

interface Opened {
  readonly options: DeciderEngineOptions;
  readonly keyring: Keyring;
  readonly latest: Latest;
  readonly ledger: Ledger;
  readonly usage: UsageStore;
}

/** Every step may be done twice: a power cut begins them anew, until the last says that they are done. */
async function importSalvaged({ options, keyring, latest, ledger, usage }: Opened, saved: Salvage, cause: StoreError | null): Promise<void> {
  const { stamp } = latest;
  ledger.setMeta('usage_lost', '1');
  const standing = createStanding(ledger);
  ledger.change('take over what was saved', () => {
    for (const mode of saved.modes) standing.keepMode(mode.direction, mode.mode, mode.until_ms, mode.from_mode);
  });
  for (const one of saved.transactions) standing.remember(one.id, one.expires_at_ms, null);
  createSalvagedRows(ledger).put(saved);
  const found = await recoverManifests(join(options.path, 'manifests'), ledger, checksOf(keyring, latest));
  const why = cause?.fault.cause ?? 'the database was damaged, and the gate ended before it was replaced';
  const detail = `${why}; set aside as ${basename(saved.path)}; ${saved.rows.length} unacknowledged rows saved, ${found.length} manifests taken up again${gapOf(saved, usage, options.gate)}; epoch ${ledger.epoch()} begins`;
  ledger.append([noteBody('fault', 'ledger', detail)], stamp);
  ledger.setMeta(TAKING_OVER, '0');
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
  const outbox = createOutbox(ledger);
  const rowCopy = openRowCopy(options.path, ledger, outbox.ackedSeq);
  const committed = Math.max(usage.ownMark(ledger.epoch()), rowCopy.end?.epoch === ledger.epoch() ? rowCopy.end.seq : 0);
  if (committed > lastSeq) throw brokenEnd(ledger.name, ledger.epoch(), lastSeq + 1, committed);
  if (ledger.endTruncated) reportWalEnd(options, ledger, latest.stamp);
  for (const own of ledger.epochs()) {
    for (let from = Math.max(own.firstSeq, usage.ownMark(own.epoch) + 1); from <= own.lastSeq; from += CATCH_UP_ROWS) {
      for (const row of ledger.read(own.epoch, from, CATCH_UP_ROWS)) usage.applyOwn(own.epoch, parseEntry(ledger, own.epoch, row));
    }
  }
  if (usage.forgotten()) {
    ledger.setMeta('usage_lost', '1');
    options.notice('ledger', 'rows of peers that were known are not here any more (a power cut, or damage): they are fetched again');
  }
  const parts: Parts = {
    ledger,
    usage,
    outbox,
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

/** Usage is derived: a damaged one is quarantined, and rows are read and fetched again. */
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
  const uptos = manifests.current().map((event) => event.file.head.upto);
  usage.countFrom(uptos, (name, epoch) => name === ledger.name && ledger.lastSeqOf(epoch) !== null);
  if (ledger.meta('caught_up') !== undefined) return;
  const lostRows = uptos.some((upto) => {
    const own = upto[ledger.name];
    return own !== undefined && own[0] < ledger.epoch() && (ledger.lastSeqOf(own[0]) ?? 0) < own[1];
  });
  if (lostRows) ledger.setMeta('usage_lost', '1');
}
