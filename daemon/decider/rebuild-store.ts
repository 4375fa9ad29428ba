/**
 * Takes over into a new ledger what was salvaged from a quarantined one, and names the rows that are lost.
 */
import { basename, join } from 'node:path';
import { createStanding } from '../store/durable-state.ts';
import { type Ledger, TAKING_OVER } from '../store/ledger.ts';
import { type ManifestChecks, recoverManifests } from '../store/manifest-store.ts';
import type { Salvage } from '../store/salvage.ts';
import { createSalvagedRows } from '../store/salvaged-rows.ts';
import type { StoreError } from '../store/sqlite.ts';
import type { UsageStore } from '../store/usage-store.ts';
import { noteBody } from './ledger-entries.ts';
import type { DeciderEngineOptions, Latest } from './store-options.ts';

/** Ranges of lost rows named in one text. At the bound: the rest is counted. */
const MAX_RANGES_NAMED = 8;
/** A new ledger, and what it takes over into. */
export interface Opened {
  readonly options: DeciderEngineOptions;
  readonly checks: ManifestChecks;
  readonly latest: Latest;
  readonly ledger: Ledger;
  readonly usage: UsageStore;
}

/** Takes everything over; each step may be done twice: after a power cut they begin anew, until the last says that they are done. */
export async function importSalvaged({ options, checks, latest, ledger, usage }: Opened, saved: Salvage, cause: StoreError | null): Promise<void> {
  const { stamp } = latest;
  ledger.setMeta('usage_lost', '1');
  const standing = createStanding(ledger);
  ledger.change('take over what was saved', () => {
    for (const mode of saved.modes) standing.keepMode(mode.direction, mode.mode, mode.until_ms, mode.from_mode);
  });
  for (const one of saved.transactions) standing.remember(one.id, one.expires_at_ms, null);
  createSalvagedRows(ledger).put(saved);
  const found = await recoverManifests(join(options.path, 'manifests'), ledger, checks);
  const why = cause?.fault.cause ?? 'the database was damaged, and the gate ended before it was replaced';
  const detail = `${why}; set aside as ${basename(saved.path)}; ${saved.rows.length} unacknowledged rows saved, ${found.length} manifests taken up again${gapOf(saved, usage, options.gate)}; epoch ${ledger.epoch()} begins`;
  ledger.append([noteBody('fault', 'ledger', detail)], stamp);
  ledger.setMeta(TAKING_OVER, '0');
  options.notice('ledger', detail);
}

/**
 * Returns the rows of quarantined epochs that are neither acknowledged nor saved: as `epoch/from–to` as far as anything here knows of them, and
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

/** Returns the text that names the lost rows; empty: none are, as far as anything here knows. */
function gapOf(saved: Salvage, usage: UsageStore, name: string): string {
  const { ranges, behind } = unreadable(saved, usage, name);
  const more = ranges.length - MAX_RANGES_NAMED;
  const named = more > 0 ? [...ranges.slice(0, MAX_RANGES_NAMED), `${more} more ranges up to ${ranges.at(-1)}`] : ranges;
  if (behind !== null) named.push(behind);
  // Not even its epochs can be read, and usage knows of no own row.
  else if (saved.lastEpoch === 0) named.push('any that the cloud has not');
  return named.length === 0 ? '' : `, could not be read: rows ${named.join(', ')}`;
}
